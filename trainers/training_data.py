"""Training data of the stages: held-out seekers, pairs to keep, and token ids of pairs.

Pairs are tokenized and cut here, not by TRL, so that the cut texts are counted before anything is trained.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import polars as pl

from girl_features.generator.prompts import (
    CV_TOKEN,
    JD_TOKEN,
    PromptTemplate,
    encode_jd,
    encode_prompt,
    template_for,
)
from girl_features.generator.reward_model import encode_pair
from girl_features.input.splits import Windows
from girl_features.input.tables import Tables

Rows = list[dict[str, list[int]]]  # one row per pair: the columns that TRL reads, as token ids


class TokenizedRows(NamedTuple):
    """Token ids of pairs, and how many of their texts were cut."""

    rows: Rows
    n_cv_truncated: int
    n_jd_truncated: int


def hold_out_seekers(rows: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split `rows` by job seeker into rows to train on and rows of the held-out seekers.

    Held out are a `share` of the seekers, at least two, chosen by a hash of seed and id.
    """

    def digest(job_seeker_id: str) -> bytes:
        return hashlib.sha256(f"{seed}:{job_seeker_id}".encode()).digest()

    seekers = sorted(rows["job_seeker_id"].unique().to_list(), key=digest)
    is_held_out = rows["job_seeker_id"].is_in(seekers[: max(2, round(share * len(seekers)))])
    return rows.filter(~is_held_out), rows.filter(is_held_out)


def limit_pairs_per_cv(pairs: pl.DataFrame, n_per_cv: int | None, seed: int) -> pl.DataFrame:
    """Return at most `n_per_cv` preference pairs of each CV, chosen by hash; None keeps all.

    The pairs of one CV share a few JDs, so many pairs of it teach little.
    """
    if n_per_cv is None:
        return pairs

    def digest(row: dict[str, str]) -> bytes:
        return hashlib.sha256("\0".join([str(seed), *row.values()]).encode()).digest()

    key = pl.struct("cv", "chosen", "rejected").map_elements(digest, return_dtype=pl.Binary)
    return pairs.filter(key.rank("ordinal").over("job_seeker_id", "cv") <= n_per_cv)


def window_texts(tables: Tables, windows: Windows, train: pl.DataFrame, held_out: pl.DataFrame) -> pl.DataFrame:
    """Return every CV and JD known before the SFT window ends, except those of held-out pairs only.

    The CVs of the seekers in `held_out` are left out, and so are the JDs of its pairs unless a pair of `train` has the
    same job. The columns are `marker` (the special token of a CV or a JD) and `text`.
    """
    query = """
        SELECT $cv AS marker, cv AS text FROM job_seekers
        WHERE updated_at < $until AND trim(cv) <> '' AND job_seeker_id NOT IN (SELECT unnest($seekers::VARCHAR[]))
        UNION ALL
        SELECT $jd AS marker, jd AS text FROM jobs
        WHERE known_at < $until AND job_id NOT IN (SELECT unnest($jobs::VARCHAR[]))
        ORDER BY ALL
    """
    values = {
        "cv": CV_TOKEN,
        "jd": JD_TOKEN,
        "until": windows.sft_end,
        "seekers": held_out["job_seeker_id"].unique().to_list(),
        "jobs": sorted(set(held_out["job_id"]) - set(train["job_id"])),
    }
    return tables.connection.execute(query, values).pl()


def tokenize_pairs(
    tokenizer: Any, template: PromptTemplate, pairs: pl.DataFrame, max_cv_tokens: int, max_jd_tokens: int
) -> TokenizedRows:
    """Return rows of `input_ids` (prompt, JD, end token) and `completion_mask` (1 on JD and end token).

    A JD that is too long ends at its last whole sentence that fits.
    """
    rows: Rows = []
    n_cv_truncated = n_jd_truncated = 0
    for cv, jd in pairs.select("cv", "jd").iter_rows():
        prompt = encode_prompt(tokenizer, template, cv, max_cv_tokens)
        completion = encode_jd(tokenizer, jd, max_jd_tokens)
        mask = [0] * len(prompt.ids) + [1] * len(completion.ids)
        rows.append({"input_ids": [*prompt.ids, *completion.ids], "completion_mask": mask})
        n_cv_truncated += prompt.cv_truncated
        n_jd_truncated += completion.truncated
    return TokenizedRows(rows, n_cv_truncated, n_jd_truncated)


def longest(rows: Rows) -> int:
    """Return the number of tokens of the longest sequence in `rows`; 0 without any."""
    return max((len(row[name]) for row in rows for name in row), default=0)


def tokenize_preferences(tokenizer: Any, pairs: pl.DataFrame, max_cv_tokens: int, max_jd_tokens: int) -> TokenizedRows:
    """Return `chosen_ids` and `rejected_ids`, cut as the reward model cuts them when it scores."""
    template = template_for(tokenizer)
    rows, n_cv_truncated, n_jd_truncated = [], 0, 0
    for cv, *jds in pairs.select("cv", "chosen", "rejected").iter_rows():
        chosen, rejected = (encode_pair(tokenizer, template, cv, jd, max_cv_tokens, max_jd_tokens) for jd in jds)
        rows.append({"chosen_ids": chosen.ids, "rejected_ids": rejected.ids})
        n_cv_truncated += chosen.cv_truncated
        n_jd_truncated += chosen.jd_truncated + rejected.jd_truncated
    return TokenizedRows(rows, n_cv_truncated, n_jd_truncated)
