"""HTML in CVs and JDs: what `strip_html` leaves of it, and that a CV in a request has the hash of the table's."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from girl_features.batch.worker import table_versions
from girl_features.config import TableConfig
from girl_features.contract import text_hash
from girl_features.input.html_text import html_to_text
from girl_features.input.text_cleaning import clean_cv
from tests.input_tables import day, load, write_tables

PLAIN = [
    "C < D and 5 <6, x<y, a<bb>c",
    "List<String>, Map<Integer, T>, std::vector<int> & more",
    "R&D, AT&T, Q&notes; B&B",
    "A --> B, <3 <<, <@name>, <mail@example.org>",
    "salary <5k\n\n\n  per month",
    "",
]
HTML = [
    ("<p>Welder</p><p>5 years</p>", "Welder\n5 years"),
    ('<b>We</b>ld<i class="a">er</i>', "Welder"),
    ("<ul><li>MIG</li>\n  <li>TIG</li></ul>", "MIG\nTIG"),
    ("<table><tr><td>a</td><td>b</td></tr></table>", "a b"),
    ("R&amp;D &lt;b&gt; 5&nbsp;&euro; &#x41;&#66;", "R&D <b> 5\xa0€ AB"),
    ("a<br>b<BR/>c<br />d", "a\nb\nc\nd"),
    ("<!DOCTYPE html><html><head><title>CV</title><style>p {color: red}</style></head><body>x</body></html>", "CV\nx"),
    ("x<script>if (a<b) alert('<p>')</script>y", "xy"),
    ("x<!-- <p>hidden</p> -->y", "xy"),
    ("x<script>no end", "xno end"),
    ("<p>x<!-- no end", "x no end"),
    ("&amp;lt;", "&lt;"),
    ("<a href='https://example.org'>site</a> of List<String>", "site of List<String>"),
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_text_without_html_stays_as_it_is(text: str) -> None:
    assert html_to_text(text) == text


@pytest.mark.parametrize(("markup", "text"), HTML)
def test_tags_go_and_entities_become_characters(markup: str, text: str) -> None:
    assert html_to_text(markup).replace("  ", " ") == text


PIECES = [
    *(markup for markup, _ in HTML),
    *PLAIN,
    "e\u0301",
    "\x00",
    "\x0b",
    "&#0;",
    "&#x85;",
    "&#55296;",
    "&nosuch;",
    "<",
    ">",
    "&",
    "溶接",
    "\n",
]


def generated(n: int = 2000) -> list[str]:
    random = Random(0)
    texts = ["".join(random.choices(PIECES, k=random.randint(1, 8))) for _ in range(n - 200)]
    characters = "<>/&;#!-pbrscipt \n'\"x1"
    return texts + ["".join(random.choices(characters, k=random.randint(1, 60))) for _ in range(200)]


@pytest.mark.parametrize("strip_html", [True, False])
def test_a_cv_in_a_request_is_cleaned_as_in_the_table(tmp_path: Path, strip_html: bool) -> None:
    texts = generated()
    config = write_tables(
        tmp_path, {"job_seekers": [(f"{i}", text, day(0)) for i, text in enumerate(texts)], "interactions": []}
    )
    table = config.job_seekers.model_copy(update={"strip_html": strip_html})
    with load(config.model_copy(update={"job_seekers": table})) as tables:
        rows = tables.connection.execute("SELECT job_seeker_id, cv, cv_hash FROM job_seekers").fetchall()
        assert len(rows) == len(texts)
        for seeker, cv, cv_hash in rows:
            expected = clean_cv(texts[int(seeker)], strip_html)
            assert cv == expected and cv_hash == text_hash(expected)
    found = table_versions(table, 10, [f"{i}" for i in range(50)])
    assert {version.job_seeker_id: version.cv for version in found} == {
        f"{i}": clean_cv(texts[i], strip_html) for i in range(50)
    }


def test_jds_and_queries_are_stripped_too_and_nothing_is_by_default(tmp_path: Path) -> None:
    config = write_tables(tmp_path, {"jobs": [("j1", "<p>weld &amp; paint", day(0))], "interactions": []})
    path = config.jobs.path
    query = TableConfig(query=f"SELECT * FROM '{path}'", strip_html=True)
    for table, text in ((config.jobs, "<p>weld &amp; paint"), (query, "weld & paint")):
        with load(config.model_copy(update={"jobs": table})) as tables:
            assert tables.connection.execute("SELECT jd FROM jobs").fetchone() == (text,)
            assert [note.code for note in tables.report.notes] == []


@pytest.mark.parametrize(
    "piece", ["<p ", "<script>", "<!--", "&amp", "</", "<p '\"", "<br>", "-->", "&#", "<p>\n \n", " ", " \n"]
)
def test_a_long_hostile_text_takes_no_long_time(piece: str) -> None:
    start = time.perf_counter()
    html_to_text("<p>x" + piece * (1_000_000 // len(piece)) + "x")
    assert time.perf_counter() - start < 10
