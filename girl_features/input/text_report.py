"""Report on the texts for `girl check`: HTML in them, the scripts of CVs, and what models do not read of CVs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from girl_features.config import TablesConfig
from girl_features.encoder import read_characters
from girl_features.errors import MissingExtraError, require
from girl_features.input.checks import TEXT_COLUMN
from girl_features.input.html_text import SQL_HAS_HTML
from girl_features.input.report import Note
from girl_features.input.scripts import main_script, script_shares
from girl_features.input.tables import Tables
from girl_features.schema import CV, JOB_SEEKER_ID, UPDATED_AT

MAX_SAMPLED = 1000  # CVs; the numbers are exact where the table has no more
BYTES_PER_TOKEN = 4  # a guess, where there is no tokenizer to count with
MAX_UNKNOWN = 0.2  # share of a script's tokens above which a model is said not to know it


class Reader(NamedTuple):
    """A model that reads CVs up to a number of tokens."""

    name: str  # "generator" or "encoder"
    setting: str  # that changes the number, or the model
    max_tokens: int
    tokenizer: Path | None  # a tokenizer.json; None if there is none on this machine


class Reading(NamedTuple):
    """Parts of the sampled CVs that a model does not read."""

    reader: str
    max_tokens: int
    is_counted: bool  # with the model's tokenizer; else guessed from bytes
    share_cut: float  # of the CVs that are longer than the model reads
    share_lost: float  # of all tokens that are beyond it
    unknown: dict[str, float]  # script -> share of its tokens that are unknown, or only a part of a character


class TextReport(NamedTuple):
    """Report on the texts of the tables that could be read."""

    n_cvs: int  # without blank ones
    n_sampled: int
    scripts: dict[str, float]  # script -> share of the sampled CVs that are mostly written in it
    readings: list[Reading]
    n_html: dict[str, int]  # table -> rows with tags or entities

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts and lists, for JSON."""
        return {**self._asdict(), "readings": [reading._asdict() for reading in self.readings]}

    def notes(self) -> list[Note]:
        """Return the report in words, with numbers of rows that are estimates if not all CVs were sampled."""
        notes = [
            Note(table, "html", f"{TEXT_COLUMN[table]} has HTML; `tables.{table}.strip_html: true` makes it plain", n)
            for table, n in self.n_html.items()
            if n
        ]
        if not self.n_sampled:
            return notes
        scripts = ", ".join(f"{script} {_percent(share)}" for script, share in self.scripts.items())
        notes.append(Note("job_seekers", "scripts", f"scripts of CVs: {scripts}{self._basis}", self.n_cvs))
        for reading in self.readings:
            if reading.share_cut:
                guess = "" if reading.is_counted else f"; guessed at {BYTES_PER_TOKEN} bytes a token, no tokenizer here"
                message = (
                    f"{CV} is longer than the {reading.reader} reads ({reading.max_tokens} tokens); it loses "
                    f"{_percent(reading.share_lost)} of all tokens{guess}{self._basis}"
                )
                notes.append(Note("job_seekers", "long_cv", message, round(reading.share_cut * self.n_cvs)))
            for script, share in reading.unknown.items():
                if share > MAX_UNKNOWN:
                    message = (
                        f"the {reading.reader} does not know {script}: {_percent(share)} of its tokens are unknown or "
                        f"parts of characters{self._basis}"
                    )
                    notes.append(
                        Note("job_seekers", "unknown_script", message, round(self._share(script) * self.n_cvs))
                    )
        return notes

    def _share(self, script: str) -> float:
        return self.scripts.get(script, 0.0)

    @property
    def _basis(self) -> str:
        return f"; estimated from {self.n_sampled:,} CVs" if self.n_sampled < self.n_cvs else ""


def inspect_texts(tables: Tables, config: TablesConfig, readers: Sequence[Reader]) -> TextReport:
    """Look at the texts of those of `tables` that were read; at a sample of CVs, the same one on every call."""
    n_html = {
        table: _first(tables, f"SELECT count(*) FROM {table} WHERE {_has_html(TEXT_COLUMN[table])}")
        for table, table_config in config
        if table in TEXT_COLUMN and table in tables.report.tables and not table_config.strip_html
    }
    if "job_seekers" not in tables.report.tables:
        return TextReport(0, 0, {}, [], n_html)
    n_cvs = _first(tables, f"SELECT count(*) FROM job_seekers WHERE {CV} <> ''")
    order = f"hash({JOB_SEEKER_ID}), {UPDATED_AT}"  # as good as random, and the same each time
    sample = f"SELECT rowid FROM job_seekers WHERE {CV} <> '' ORDER BY {order} LIMIT {MAX_SAMPLED}"
    rows = tables.connection.execute(f"SELECT {CV} FROM job_seekers WHERE rowid IN ({sample})").fetchall()
    cvs = [str(row[0]) for row in rows]
    readings = [read_texts(reader, cvs) for reader in readers] if cvs else []
    return TextReport(n_cvs, len(cvs), script_shares(cvs), readings, n_html)


def first_cv(tables: Tables) -> str | None:
    """Return the first CV that is not blank; None if there is none, or if its table could not be read."""
    if "job_seekers" not in tables.report.tables:
        return None
    query = f"SELECT {CV} FROM job_seekers WHERE trim({CV}) <> '' ORDER BY rowid LIMIT 1"
    row = tables.connection.execute(query).fetchone()
    return None if row is None else str(row[0])


def read_texts(reader: Reader, cvs: Sequence[str]) -> Reading:
    """Return what `reader` reads of `cvs`, which are not empty; counted with its tokenizer if that can be loaded."""
    tokenizer = _open_tokenizer(reader.tokenizer)
    limit = read_characters(reader.max_tokens)
    lengths: list[float] = []
    tokens: dict[str, list[int]] = defaultdict(list)  # by the main script of their CV
    for cv in cvs:
        if tokenizer is None:
            lengths.append(len(cv.encode()) / BYTES_PER_TOKEN)
            continue
        ids = tokenizer.encode(cv[:limit], add_special_tokens=reader.name == "encoder").ids
        lengths.append(len(ids) * max(1.0, len(cv) / limit))
        tokens[main_script(cv)] += ids
    n_lost = sum(max(0.0, length - reader.max_tokens) for length in lengths)
    return Reading(
        reader=reader.name,
        max_tokens=reader.max_tokens,
        is_counted=tokenizer is not None,
        share_cut=sum(length > reader.max_tokens for length in lengths) / len(cvs),
        share_lost=n_lost / max(1.0, sum(lengths)),
        unknown={script: _unknown(tokenizer, ids) for script, ids in tokens.items() if ids},
    )


def _unknown(tokenizer: Any, ids: list[int]) -> float:
    """Return the share of tokens that stand for no whole character."""
    is_unknown = {i: "\ufffd" in tokenizer.decode([i], skip_special_tokens=False) for i in set(ids)}
    unknown_ids = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>", "<|unk|>")}
    return sum(is_unknown[i] or i in unknown_ids for i in ids) / len(ids)


def _open_tokenizer(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        tokenizer = require("tokenizers", "generate").Tokenizer.from_file(str(path))
    except MissingExtraError:
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _has_html(text: str) -> str:
    return f"(contains({text}, '<') OR contains({text}, '&')) AND regexp_matches({text}, '{SQL_HAS_HTML}')"


def _first(tables: Tables, query: str) -> int:
    row = tables.connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
