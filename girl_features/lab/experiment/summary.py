"""First part of an experiment's page: the best rows, the verdicts on each claim, and the causes that were tried."""

from __future__ import annotations

from dataclasses import asdict

import polars as pl

from girl_features.evaluation.controls.columns import STYLE, ColumnAUC, author_warning
from girl_features.evaluation.report import GAIN, GAIN_INTERVAL, VERDICT
from girl_features.evaluation.results import BASE, SLICE_NAMES, ResultRow
from girl_features.evaluation.tables import Column, bullets, inline, interval_text, markdown_table, value_text
from girl_features.lab.experiment.results import ClaimResult, DataResults, ExperimentResults, with_all_labels
from girl_features.lab.experiment.row_names import parse_pooling, parse_row

_COMPARED = Column("compared", "compared")
_CAUSE_COLUMNS = [Column("what was changed", "cause"), _COMPARED, Column("AUC without", "auc_over", ".4f")]


def verdict_line(claim: ClaimResult) -> str:
    """Return one claim on one slice in one sentence."""
    prefix = "Simulation: " if claim.simulation else ""
    head = f"{prefix}{claim.data}, {claim.claim}, {slice_title(claim.slice)}"
    if claim.verdict is None:
        return f"{head}: nothing can be said (too few test seekers, or one class alone)"
    spread = "" if claim.auc_gain_seed_sd is None else f", SD over seeds {claim.auc_gain_seed_sd:.4f}"
    loss = f"; LogLoss {value_text(claim.logloss_gain, '+.4f')}, {claim.logloss_verdict}"
    gain = f"AUC {value_text(claim.auc_gain, '+.4f')}"
    ends = interval_text(claim.auc_gain_low, claim.auc_gain_high, "+.4f")
    return f"{head}: **{claim.verdict}** ({gain}, 95 % interval {ends}{spread}{loss})"


def summary_section(data: DataResults, left_out: tuple[str, ...]) -> str:
    """Return the section of one data set. `left_out` names the generators and baselines that were skipped."""
    verdicts = [claim.verdict for claim in data.claims if claim.slice == "all"]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("better", "worse", "not shown"))
    lines = [f"{len(verdicts)} claims on all test pairs: {counts}.", *_best_rows(data)]
    lines += [f"**Warning:** {warning}" for warning in _author_warnings(data)]
    if left_out:
        lines.append(f"Skipped on this data set: {', '.join(left_out)}.")
    if equal_slices := distinct_slices(data).get("all"):
        lines.append(f"No own table, as they hold all test pairs: {', '.join(map(slice_title, equal_slices))}.")
    return "\n\n".join([f"### {data.title}", bullets(lines), _claims_table(data), *_cause_blocks(data)])


def chance_line(results: ExperimentResults) -> str:
    """Return a sentence on the number of verdicts that chance alone would give."""
    n = sum(
        claim.verdict is not None
        for data in results.data
        for claim in data.claims
        if claim.slice in _claim_slices(data)
    )
    return (
        f"{n} differences are listed above at 95 % each, without correction. If no two rows differed, about "
        f"{n * 0.05:.2g} would still read better or worse by AUC, and as many by LogLoss."
    )


def distinct_slices(data: DataResults) -> dict[str, list[str]]:
    """Return slice -> later slices with the same results, which need no table."""
    by_content: dict[tuple[object, ...], list[str]] = {}
    for name in dict.fromkeys(row.slice for row in data.rows):
        rows = [row for row in data.rows if row.slice == name]
        content = tuple((row.predictor, row.row, row.n, row.auc, row.logloss) for row in rows)
        by_content.setdefault(content, []).append(name)
    return {names[0]: names[1:] for names in by_content.values()}


def slice_title(name: str) -> str:
    """Return a slice's name in words."""
    return SLICE_NAMES.get(name, f"seekers with {name} in the training window")


def _best_rows(data: DataResults) -> list[str]:
    known = [row for row in with_all_labels(data.rows) if row.slice == "all" and row.auc is not None]
    ranked = sorted(known, key=lambda row: -(row.auc or 0))
    groups = {
        "Best of all": ranked,
        "Best with a generated JD": [row for row in ranked if _has_generated_jd(row, data)],
        "Best base": [row for row in ranked if row.row == BASE],
    }
    return [
        f"{title}: `{inline(rows[0].predictor)}`, `{inline(rows[0].row)}`, AUC {value_text(rows[0].auc, '.4f')} "
        f"({interval_text(rows[0].auc_low, rows[0].auc_high, '.4f')})."
        for title, rows in groups.items()
        if rows
    ]


def _has_generated_jd(row: ResultRow, data: DataResults) -> bool:
    features = parse_row(row.row).features
    return features in data.prepared.generators or parse_pooling(features) is not None


def _author_warnings(data: DataResults) -> list[str]:
    """Return a warning if style alone ranks the pairs too well, and nothing if it does not or was not asked."""
    ranked = [
        ColumnAUC(STYLE, row.auc, row.auc_low, row.auc_high)
        for row in data.rows
        if (row.predictor, row.slice) == ("alone", "all") and parse_row(row.row).columns == (STYLE,)
    ]
    warning = author_warning(ranked)
    return [] if warning is None else [warning]


def _claim_slices(data: DataResults) -> list[str]:
    """Return the slices whose claims are listed: all pairs, and cold-start seekers if that set differs."""
    return [name for name in ("all", "cold") if name in distinct_slices(data)]


def _claims_table(data: DataResults) -> str:
    columns = [Column("claim", "claim"), _COMPARED]
    for name in _claim_slices(data):
        columns += [
            Column(f"{slice_title(name)}: gain in AUC", f"{name} auc_gain", "+.4f"),
            Column("95 %", f"{name} auc_gain_low", "+.4f", f"{name} auc_gain_high"),
            Column("SD, seeds", f"{name} auc_gain_seed_sd", ".4f"),
            Column("verdict", f"{name} verdict"),
            Column("LogLoss", f"{name} logloss"),
        ]
    lines: dict[str, dict[str, object]] = {}
    for result in data.claims:
        line = lines.setdefault(result.claim, {"claim": result.claim, "compared": result.compared})
        line |= {f"{result.slice} {key}": value for key, value in asdict(result).items()}
        line[f"{result.slice} verdict"] = result.verdict or "too few seekers"
        loss = value_text(result.logloss_gain, "+.4f")
        line[f"{result.slice} logloss"] = f"{loss} {value_text(result.logloss_verdict)}"
    return markdown_table(pl.DataFrame(list(lines.values()), infer_schema_length=None), columns)


def _cause_blocks(data: DataResults) -> list[str]:
    """Return a titled table of the claims that have a `cause`, on all test pairs."""
    causes = {claim.name: claim.cause for claim in data.config.all_claims if claim.cause}
    lines = [
        {**asdict(result), "cause": causes[result.claim], "compared": result.compared}
        for result in data.claims
        if result.claim in causes and result.slice == "all"
    ]
    if not lines:
        return []
    frame = pl.DataFrame(lines, infer_schema_length=None).sort("cause", "compared")
    table = markdown_table(frame, [*_CAUSE_COLUMNS, GAIN, GAIN_INTERVAL, VERDICT])
    return [f"#### {data.title}, looking for causes", table]
