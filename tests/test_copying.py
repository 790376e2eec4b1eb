"""Copied JDs: the share of a JD that stands in its CV, and the limit on it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.generator.copying import RUN_WORDS, copied_share
from girl_features.generator.draw import generate_chunk
from girl_features.schema import CVVersion
from tests.fakes import TemplateGenerator, feature_contract

CV = "Ran a kitchen of twelve in Leith for six years, and trained four apprentices there"


@pytest.mark.parametrize(
    ("jd", "share"),
    [
        (CV, 1.0),
        (CV.upper().replace(" ", " - ") + ".", 1.0),
        ("Wanted: somebody who cooks", 0.0),
        ("", 0.0),
        ("Head cook. You will run a kitchen of twelve people and train the young ones", 0.0),
        ("Ran a kitchen of twelve in Leith for now", 1 / 2),
    ],
)
def test_the_share_counts_runs_of_eight_words(jd: str, share: float) -> None:
    assert copied_share(CV, jd) == share


def test_scripts_without_spaces_are_read_by_characters() -> None:
    assert copied_share("我在北京做了六年厨师长", "我在北京做了六年厨师长") == 1.0
    assert copied_share("我在北京做了六年厨师长", "招聘上海的软件工程师一名") == 0.0


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.lists(st.sampled_from("abcdef"), max_size=40))
def test_the_share_is_that_of_a_count_by_hand(cv: list[str], jd: list[str]) -> None:
    runs = [" ".join(jd[i : i + RUN_WORDS]) for i in range(len(jd) - RUN_WORDS + 1)]
    known = [" ".join(cv[i : i + RUN_WORDS]) for i in range(len(cv) - RUN_WORDS + 1)]
    expected = sum(run in known for run in runs) / len(runs) if runs else 0.0
    assert copied_share(" ".join(cv), " ".join(jd)) == expected


def test_a_copied_jd_is_drawn_again_and_fails_if_the_second_draw_copies_too() -> None:
    contract = feature_contract()
    limited = contract.model_copy(update={"sampling": contract.sampling.model_copy(update={"max_copied": 0.25})})
    versions = [CVVersion(name, f"{CV} ({name})", datetime(2024, 1, 1, tzinfo=UTC), name * 64) for name in "ab"]
    script = {versions[0].cv: [CV, "Wanted: a head cook"], versions[1].cv: [CV, CV]}
    chunk = generate_chunk(TemplateGenerator(script), versions, limited)
    assert [[draw.result.text for draw in draws] for draws in chunk.kept] == [["Wanted: a head cook"], []]
    assert chunk.failures == [None, "copied"]
    assert chunk.n_retried == 2
    unlimited = generate_chunk(TemplateGenerator(script), versions, contract)
    assert unlimited.failures == [None, None]


def test_the_limit_is_part_of_the_contract_only_where_it_is_set() -> None:
    sampling = feature_contract().sampling
    assert "max_copied" not in sampling.model_dump(mode="json")
    assert sampling.model_copy(update={"max_copied": 0.5}).fingerprint != sampling.fingerprint
