"""What an experiment's page says first: which rows rank best, every claim with its verdicts, causes that were tried."""

from __future__ import annotations

from collections.abc import Sequence

from girl_features.evaluation.report import cells_table, inline, interval_text, number_text
from girl_features.evaluation.results import BASE
from girl_features.lab.experiment.claims import ClaimResult
from girl_features.lab.experiment.config import pooled
from girl_features.lab.experiment.run import DataResults, ExperimentResults


def verdict_line(claim: ClaimResult) -> str:
    """One claim on one slice in one sentence."""
    head = f"{'Simulation: ' if claim.simulation else ''}{claim.data}, {claim.claim}, {slice_title(claim.slice)}"
    if claim.verdict is None:
        return f"{head}: nothing can be said (too few test seekers, or one class alone)"
    spread = "" if claim.auc_gain_seed_sd is None else f", SD over seeds {claim.auc_gain_seed_sd:.4f}"
    loss = f"; LogLoss {number_text(claim.logloss_gain, '+.4f')}, {claim.logloss_verdict}"
    gain = f"AUC {number_text(claim.auc_gain, '+.4f')}"
    ends = interval_text(claim.auc_gain_low, claim.auc_gain_high, "+.4f")
    return f"{head}: **{claim.verdict}** ({gain}, 95 % interval {ends}{spread}{loss})"


def summary(results: ExperimentResults, data: DataResults) -> str:
    """Which rows rank best, then every claim with its verdicts."""
    every = [claim.verdict for claim in data.claims if claim.slice == "all"]
    counts = ", ".join(f"{every.count(v)} {v}" for v in ("better", "worse", "not shown"))
    lines = [f"{len(every)} claims on all test pairs: {counts}.", *_best_rows(data)]
    if gone := _without(results, data):
        lines.append(f"Not made here, and so not compared: {', '.join(gone)}.")
    if same := distinct_slices(data).get("all"):
        lines.append(f"The same pairs as all, and so not shown again: {', '.join(map(slice_title, same))}.")
    return "\n\n".join([f"### {title_of(data)}", bullets(lines), _claims_table(data), *_causes_table(data)])


def _best_rows(data: DataResults) -> list[str]:
    with_jd = {*data.prepared.arms, *(row.row for row in data.rows if pooled(row.row))}
    ranked = sorted((r for r in data.rows if r.slice == "all" and r.auc is not None), key=lambda r: -(r.auc or 0))
    lines = []
    for title, rows in (
        ("Best of all", ranked),
        ("Best with a generated JD", [row for row in ranked if row.row in with_jd]),
        ("Best base", [row for row in ranked if row.row == BASE]),
    ):
        if rows:
            ends = interval_text(rows[0].auc_low, rows[0].auc_high, ".4f")
            auc = number_text(rows[0].auc, ".4f")
            lines.append(f"{title}: `{inline(rows[0].predictor)}`, `{inline(rows[0].row)}`, AUC {auc} ({ends}).")
    return lines


def _claims_table(data: DataResults) -> str:
    """A line a claim: all pairs, then cold-start seekers where those are others."""
    slices = [name for name in ("all", "cold") if name in distinct_slices(data)]
    found = {(claim.claim, claim.slice): claim for claim in data.claims}
    header = ["claim", "compared"]
    for name in slices:
        header += [f"{slice_title(name)}: gain in AUC", "95 %", "SD, seeds", "verdict", "LogLoss"]
    lines = []
    for claim in data.config.all_claims:
        line = [claim.name, f"{claim.subject} over {claim.over}"]
        for name in slices:
            own = found[claim.name, name]
            line += [
                number_text(own.auc_gain, "+.4f"),
                interval_text(own.auc_gain_low, own.auc_gain_high, "+.4f"),
                number_text(own.auc_gain_seed_sd, ".4f"),
                own.verdict or "too few seekers",
                f"{number_text(own.logloss_gain, '+.4f')} {own.logloss_verdict or ''}",
            ]
        lines.append(line)
    return cells_table(header, lines)


def distinct_slices(data: DataResults) -> dict[str, list[str]]:
    """Slice -> later ones of the very same pairs, which are not worth a table."""
    found: dict[tuple[object, ...], list[str]] = {}
    for name in dict.fromkeys(row.slice for row in data.rows):
        rows = [row for row in data.rows if row.slice == name]
        found.setdefault(tuple((row.predictor, row.row, row.n, row.auc, row.logloss) for row in rows), []).append(name)
    return {names[0]: names[1:] for names in found.values()}


def _causes_table(data: DataResults) -> list[str]:
    """The claims that look for the cause of a missing lift, on all test pairs."""
    causes = {claim.name: claim.cause for claim in data.config.all_claims if claim.cause}
    lines = [
        (
            causes[claim.claim],
            f"{claim.subject} over {claim.over}",
            number_text(claim.auc_over, ".4f"),
            number_text(claim.auc_gain, "+.4f"),
            interval_text(claim.auc_gain_low, claim.auc_gain_high, "+.4f"),
            claim.verdict or "",
        )
        for claim in data.claims
        if claim.claim in causes and claim.slice == "all"
    ]
    if not lines:
        return []
    header = ("what was changed", "compared", "AUC without", "gain", "gain, 95 %", "verdict")
    return [f"#### {title_of(data)}, looking for causes", cells_table(header, sorted(lines))]


def _without(results: ExperimentResults, data: DataResults) -> tuple[str, ...]:
    return results.config.data[data.prepared.name].without


def chance_line(results: ExperimentResults) -> str:
    """How many of the verdicts chance alone would give."""
    n = sum(
        claim.verdict is not None
        for data in results.data
        for claim in data.claims
        if claim.slice in ("all", "cold") and claim.slice in distinct_slices(data)
    )
    return (
        f"{n} differences are listed above at 95 % each, without correction: if nothing differed, about {n * 0.05:.2g} "
        f"would still read better or worse, and as many again by LogLoss."
    )


def title_of(data: DataResults) -> str:
    """A data set's name, and whether it is simulated."""
    return f"{data.prepared.name}{' (simulation)' if data.prepared.simulation else ''}"


def slice_title(name: str) -> str:
    """A slice's name for people."""
    titles = {"all": "all test pairs", "cold": "cold-start seekers"}
    return titles.get(name, f"seekers with {name} in the training window")


def bullets(items: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {item}" for item in items)
