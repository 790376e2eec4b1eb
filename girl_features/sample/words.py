"""Words of the sample market: twelve trades of two specialisms, each with a seeker's and an employer's language.

Every text of the simulation is put together from this file, which was written for it. A specialism has three
skills; a skill has two phrasings as seekers put it on a CV and two as employers put it in a JD, with no content
word in common. `carries_to` is the planted transfer: skill k of a specialism counts as skill k of the one it
carries to, and that one is where its people do best next. A specialism that carries to itself stays put.
"""

from __future__ import annotations

from typing import NamedTuple


class Skill(NamedTuple):
    """One skill in both languages."""

    cv: tuple[str, str]  # as seekers say it: "-ing" phrases and noun phrases
    jd: tuple[str, str]  # as employers say it: what "you will" do


class Specialism(NamedTuple):
    """Half of a trade: what its people call themselves, what employers call them, what they can do."""

    name: str
    carries_to: str
    cv_titles: tuple[str, str]
    jd_titles: tuple[str, str]
    skills: tuple[Skill, Skill, Skill]


class Trade(NamedTuple):
    """Two specialisms that share a workplace."""

    name: str
    weight: float  # share of job seekers, before normalising
    cv_workplaces: tuple[str, str]
    jd_workplaces: tuple[str, str]
    specialisms: tuple[Specialism, Specialism]


def _specialism(name: str, carries_to: str, cv_titles: str, jd_titles: str, *skills: str) -> Specialism:
    def two(text: str) -> tuple[str, str]:
        first, second = text.split(" / ")
        return first, second

    parts = [skill.split(" => ") for skill in skills]
    a, b, c = (Skill(two(cv), two(jd)) for cv, jd in parts)
    return Specialism(name, carries_to, two(cv_titles), two(jd_titles), (a, b, c))


TRADES: tuple[Trade, ...] = (
    Trade(
        "army",
        3.0,
        ("in the army", "with my regiment"),
        ("defence agency", "military support command"),
        (
            _specialism(
                "army supply",
                "warehouse stock",
                "quartermaster clerk / army storekeeper",
                "Defence Supply Specialist / Military Provisions Coordinator",
                "signing kit in and out of the depot / handing out boots and tents"
                " => control materiel accountability / administer defence holdings",
                "loading trucks before a convoy / lashing crates for the airlift"
                " => coordinate theatre movements / arrange military transport",
                "counting rations and shells / nightly checks of the armoury"
                " => audit controlled provisions / verify consumption of munitions",
            ),
            _specialism(
                "army equipment",
                "field repair",
                "vehicle sergeant / regiment radio fitter",
                "Defence Equipment Technician / Platform Readiness Specialist",
                "keeping lorries alive in the desert / changing axles in the mud"
                " => sustain platform mobility / deliver fleet readiness",
                "mending radios on exercise / splicing aerials at camp"
                " => restore communications hardware / troubleshoot signal systems",
                "filling in fault cards / looking over generators at dawn"
                " => document serviceability / report technical readiness",
            ),
        ),
    ),
    Trade(
        "warehouse",
        1.5,
        ("in a big shed by the motorway", "at a parcel depot"),
        ("distribution centre", "fulfilment hub"),
        (
            _specialism(
                "warehouse stock",
                "food planning",
                "picker and packer / goods-in checker",
                "Inventory Control Specialist / Fulfilment Analyst",
                "booking pallets in with a scanner / putting boxes on the right shelf"
                " => maintain inventory accuracy / own perpetual stock ledgers",
                "loading lorries against the clock / building mixed loads"
                " => schedule outbound freight / optimise carrier dispatch",
                "hunting for lost parcels / weekly aisle counts => run cycle audits / investigate shrinkage",
            ),
            _specialism(
                "warehouse dock",
                "warehouse dock",
                "night gaffer / forklift crew boss",
                "Distribution Shift Manager / Logistics Operations Supervisor",
                "sharing out forklifts and people / drawing up the rota"
                " => allocate labour to workload / manage roster coverage",
                "morning talks by the bay doors / walking temps round the shed"
                " => conduct safety briefings / induct agency operatives",
                "calming late drivers / phoning hauliers about queues"
                " => resolve yard congestion / liaise with transport partners",
            ),
        ),
    ),
    Trade(
        "school",
        3.0,
        ("at a state school", "at a village school"),
        ("secondary academy", "education trust"),
        (
            _specialism(
                "school lessons",
                "training design",
                "school teacher / science teacher",
                "Secondary Educator / Classroom Practitioner",
                "writing lessons for mixed classes / making worksheets and slides"
                " => prepare schemes of work / deliver the national curriculum",
                "marking homework / setting tests and quizzes"
                " => assess pupil attainment / moderate examination evidence",
                "getting laptops going in class / filming my own explainers"
                " => embed digital pedagogy / integrate blended instruction",
            ),
            _specialism(
                "school pastoral",
                "success onboarding",
                "form tutor / head of year",
                "Pastoral Care Coordinator / Student Wellbeing Officer",
                "ringing mums and dads about worries / open evenings in the hall"
                " => strengthen family engagement / chair guardian conferences",
                "settling new children in / finding a buddy for shy ones"
                " => oversee learner transition / safeguard vulnerable students",
                "keeping notes on each child / spotting who falls behind"
                " => monitor attendance interventions / track welfare outcomes",
            ),
        ),
    ),
    Trade(
        "training",
        0.8,
        ("on the courses desk of a bank", "in the people team of a big firm"),
        ("corporate academy", "learning consultancy"),
        (
            _specialism(
                "training design",
                "training design",
                "course writer / maker of staff courses",
                "Instructional Designer / Digital Learning Developer",
                "writing courses for staff / turning thick handbooks into stories"
                " => author e-learning modules / translate expertise into curricula",
                "checking what people remember / a quiz after each course"
                " => evaluate learning impact / build competency assessments",
                "recording short how-to films / looking after the course website"
                " => produce multimedia content / administer the LMS",
            ),
            _specialism(
                "training delivery",
                "training delivery",
                "workshop host / in-house coach",
                "Corporate Trainer / Learning Facilitator",
                "standing up before a full room / running day-long workshops"
                " => facilitate interactive seminars / present capability programmes",
                "walking newcomers through week one / sitting beside a new colleague"
                " => orchestrate employee induction / develop emerging talent",
                "asking the room how it went / tuning talks after comments"
                " => analyse participant feedback / refine programme effectiveness",
            ),
        ),
    ),
    Trade(
        "nursing",
        3.0,
        ("on a surgical ward", "at a city hospital"),
        ("acute care provider", "healthcare trust"),
        (
            _specialism(
                "nursing records",
                "clinical coding",
                "ward nurse / night nurse",
                "Registered Care Practitioner / Acute Care Professional",
                "keeping charts straight on the ward / typing up handovers"
                " => document care plans / uphold record standards",
                "giving out tablets on time / double-checking doses"
                " => administer prescribed medication / reconcile pharmacy orders",
                "spotting odd blood results / watching monitors at night"
                " => observe vital parameters / escalate deterioration",
            ),
            _specialism(
                "nursing guidance",
                "training delivery",
                "clinic sister / community nurse",
                "Patient Education Specialist / Outpatient Liaison Practitioner",
                "explaining illness in plain words / evening talks about diet"
                " => educate service users / promote health literacy",
                "showing beginners how to draw blood / taking juniors round the beds"
                " => mentor preceptees / supervise clinical placements",
                "listening after bad news / asking patients what hurt"
                " => provide empathetic counselling / capture satisfaction measures",
            ),
        ),
    ),
    Trade(
        "clinical",
        0.8,
        ("in the files room of a hospital", "in a trials office"),
        ("health data institute", "clinical research organisation"),
        (
            _specialism(
                "clinical coding",
                "clinical coding",
                "medical files clerk / keeper of patient notes",
                "Clinical Data Specialist / Health Information Coder",
                "turning doctors' scrawl into numbers / tidying patient files"
                " => abstract diagnoses into classifications / curate structured health data",
                "matching drug lists / chasing blanks on forms"
                " => validate treatment datasets / query incomplete entries",
                "finding figures that look wrong / lining up lab sheets"
                " => detect anomalies in registries / harmonise laboratory feeds",
            ),
            _specialism(
                "clinical study",
                "clinical study",
                "trials office assistant / helper to professors",
                "Clinical Research Coordinator / Study Reporting Associate",
                "making tables for professors / drawing graphs of results"
                " => compile statistical summaries / generate regulatory reports",
                "getting consent papers signed / booking visits of volunteers"
                " => recruit trial participants / maintain ethics compliance",
                "sending tubes by courier / guarding the freezer"
                " => track biospecimen shipments / manage site logistics",
            ),
        ),
    ),
    Trade(
        "kitchen",
        3.0,
        ("in a busy bistro", "in a hotel kitchen"),
        ("hospitality group", "restaurant brand"),
        (
            _specialism(
                "kitchen line",
                "food line",
                "line cook / grill cook",
                "Culinary Professional / Brigade Station Chef",
                "keeping six pans going at once / sending plates out hot"
                " => execute service to standard / coordinate station output",
                "labelling every tub in the fridge / scrubbing down at midnight"
                " => observe hygiene protocols / enforce allergen segregation",
                "teaching lads to hold a knife / shouting out the tickets"
                " => develop brigade members / direct pass communication",
            ),
            _specialism(
                "kitchen ordering",
                "shop buying",
                "cafe cook / head of a small kitchen",
                "Menu Development Manager / Catering Procurement Chef",
                "haggling with fishmongers / ordering veg before dawn"
                " => source ingredients competitively / manage supplier agreements",
                "working out what a dish costs / stretching leftovers"
                " => control gross margin / engineer recipe profitability",
                "dressing plates for photos / chalking up a new board each month"
                " => curate seasonal offerings / elevate presentation",
            ),
        ),
    ),
    Trade(
        "food",
        1.0,
        ("at a ready-meals plant", "at a bakery plant"),
        ("food manufacturer", "chilled production site"),
        (
            _specialism(
                "food line",
                "food line",
                "packing hand / belt gaffer",
                "Food Production Supervisor / Manufacturing Line Leader",
                "keeping the belt moving / swapping people when one is ill"
                " => drive throughput targets / balance operator deployment",
                "swabbing machines / hairnets and whites all day => assure HACCP compliance / lead sanitation audits",
                "showing temps what to do / calling the crew together"
                " => upskill line operators / cascade shift communications",
            ),
            _specialism(
                "food planning",
                "warehouse dock",
                "bakery scheduler / dairy office hand",
                "Production Planner / Supply Planning Analyst",
                "working out how much dough we need / ordering flour and film"
                " => forecast material requirements / balance raw inventory",
                "lining up the bakes of the week / juggling rush orders"
                " => sequence manufacturing runs / synchronise dispatch plans",
                "binning less at month end / adding up what went stale"
                " => reduce waste variance / analyse yield performance",
            ),
        ),
    ),
    Trade(
        "shop",
        3.0,
        ("in a high street shop", "in a shoe shop"),
        ("retail chain", "fashion retailer"),
        (
            _specialism(
                "shop selling",
                "success accounts",
                "shop assistant / shoe seller",
                "Retail Sales Advisor / Store Consultant",
                "chatting to regulars / remembering names and sizes"
                " => cultivate customer loyalty / deliver personalised service",
                "talking people into the better pair / beating my till goal"
                " => exceed conversion rates / upsell complementary ranges",
                "calming angry queues / taking things back with a smile"
                " => handle complaints professionally / process refunds per policy",
            ),
            _specialism(
                "shop buying",
                "warehouse stock",
                "window dresser / back-room hand",
                "Visual Merchandiser / Retail Assortment Buyer",
                "phoning reps for more jumpers / filling gaps before opening"
                " => negotiate vendor assortments / secure range availability",
                "working out markdowns / sticking on sale tickets"
                " => optimise pricing strategy / protect category profitability",
                "doing up the windows / moving racks round each month"
                " => execute visual merchandising / implement planograms",
            ),
        ),
    ),
    Trade(
        "success",
        1.0,
        ("at an app firm", "on the phones of a software firm"),
        ("software vendor", "subscription platform"),
        (
            _specialism(
                "success accounts",
                "success accounts",
                "phone rep / helpdesk man with his own clients",
                "Customer Success Manager / Key Account Executive",
                "calling clients just to ask / knowing who runs what"
                " => nurture strategic relationships / champion user advocacy",
                "getting people to stay another year / selling the bigger plan"
                " => secure contract renewals / expand recurring revenue",
                "soothing upset callers / fixing mix-ups the same day => mitigate churn risk / resolve escalations",
            ),
            _specialism(
                "success onboarding",
                "training delivery",
                "set-up guide / first-weeks contact",
                "Onboarding Specialist / Implementation Consultant",
                "first calls with newcomers / sharing my screen step by step"
                " => conduct kick-off sessions / configure client workspaces",
                "holding hands until it works / answering odd questions kindly"
                " => accelerate product adoption / guide stakeholder rollout",
                "noting who never logs in / nudging the quiet ones"
                " => monitor usage health / surface engagement insights",
            ),
        ),
    ),
    Trade(
        "garage",
        2.5,
        ("at a family garage", "at a tyre and brake place"),
        ("automotive dealership", "vehicle service network"),
        (
            _specialism(
                "garage engines",
                "field repair",
                "car mechanic / garage hand",
                "Automotive Technician / Vehicle Diagnostics Specialist",
                "stripping gearboxes / putting in brakes and belts"
                " => overhaul drivetrain assemblies / perform scheduled servicing",
                "listening for knocks / finding dead wires => interpret diagnostic codes / rectify electrical faults",
                "road tests and tick sheets / scribbling job cards"
                " => certify roadworthiness / complete workshop documentation",
            ),
            _specialism(
                "garage desk",
                "success onboarding",
                "front man at a garage / tyre counter hand",
                "Automotive Service Advisor / Aftersales Host",
                "greeting drivers at eight / talking through the bill"
                " => welcome retail motorists / present repair estimates",
                "ringing when the car is done / lending out the runabout"
                " => communicate progress updates / arrange courtesy mobility",
                "keeping a book of who is due / posting cards when time is up"
                " => maintain service reminders / analyse retention pipelines",
            ),
        ),
    ),
    Trade(
        "field",
        1.4,
        ("out in a van", "on wind farms"),
        ("industrial services contractor", "energy operator"),
        (
            _specialism(
                "field repair",
                "field repair",
                "turbine fixer / pump man",
                "Field Service Engineer / Industrial Maintenance Technician",
                "swapping motors up a tower / greasing bearings in the rain"
                " => replace mechanical components onsite / execute preventive maintenance",
                "poking about in control boxes / soldering boards in the van"
                " => diagnose instrumentation / repair automation panels",
                "writing up each visit / photos of worn parts => submit service reports / record asset condition",
            ),
            _specialism(
                "field safety",
                "food line",
                "permit man / climbing crew boss",
                "Site Operations Coordinator / Field Compliance Officer",
                "telling crews where to go / planning climbs round the wind"
                " => dispatch technicians efficiently / prioritise work packages",
                "checking harnesses / stopping jobs that look wrong"
                " => enforce lockout procedures / conduct hazard assessments",
                "toolbox talks / showing new climbers the knots"
                " => deliver compliance inductions / coach contractor behaviours",
            ),
        ),
    ),
)
