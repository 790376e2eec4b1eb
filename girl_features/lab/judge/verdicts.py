"""A judge compares two JDs written for one CV: detail, relevance, conciseness (GIRL, section V-C).

Each pair is shown in both orders, so that a preference for the first place cancels out. Where the two answers differ,
the result is a tie. The report includes the share of pairs whose winner changes with the order, and how often the
longer text wins. Where these are large, the result means little. The advantage is win - lose.

`injection_shift` measures how well the judge resists instructions in a text: it is the change of the advantage when
the left JDs end with instructions to the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any, Literal, NamedTuple

import numpy as np

from girl_features.errors import ShapeError
from girl_features.evaluation.bootstrap import percentile_interval
from girl_features.generator.words import words_of
from girl_features.lab.judge.chat import Chat
from girl_features.lab.judge.question import (
    CRITERIA,
    PAYLOADS,
    Answer,
    JDPair,
    messages_for,
    parse_answer,
    speaks_to_the_judge,
)
from girl_features.progress import Progress

OVERALL = "overall"
N_BOOTSTRAP = 1000
JudgedOutcome = Literal["win", "tie", "lose"]  # of the left JD
_SIGN_OF_ANSWER = {"A": 1, "tie": 0, "B": -1}
_SIGN_OF_OUTCOME = {"win": 1, "tie": 0, "lose": -1}
_OUTCOME_OF_SIGN: dict[int, JudgedOutcome] = {1: "win", 0: "tie", -1: "lose"}


class JudgedPair(NamedTuple):
    """Result of one pair, from both orders."""

    outcomes: dict[str, JudgedOutcome]  # by criterion, and OVERALL
    flipped: dict[str, bool]  # by criterion, and OVERALL: the two orders named different winners
    preferred_first: int  # answers, over both orders and all criteria, that named the JD shown first
    n_decided: int  # answers that named one of the two JDs
    n_invalid: int  # replies, of two, that were not the JSON that was asked for


class JudgeSummary(NamedTuple):
    """Shares over n pairs for one criterion."""

    criterion: str
    win: float
    tie: float
    lose: float
    advantage: float  # win - lose
    advantage_low: float  # 95 % interval, pairs resampled
    advantage_high: float
    flip_rate: float  # share of pairs whose two orders named different winners


class JudgeReport(NamedTuple):
    """Result of a whole comparison."""

    judge: str
    n: int
    criteria: list[JudgeSummary]
    first_place_rate: float | None  # share of decided answers that name the JD shown first: .5 is unbiased
    longer_wins_rate: float | None  # share of pairs won by the longer JD, of decided pairs of different lengths
    length_correlation: float | None  # between log length ratio and OVERALL outcome (1, 0, -1)
    mean_words: tuple[float, float]  # left, right
    n_invalid: int  # replies that were not the JSON that was asked for
    n_with_orders: tuple[int, int]  # left and right JDs that contain instructions to the judge
    injection_shift: float | None  # advantage with instructions in the left JDs, minus without; None: not measured


def judge_pairs(chat: Chat, pairs: Sequence[JDPair], *, probe: int = 0) -> JudgeReport:
    """Compare the left and right JDs of all pairs, and judge `probe` of them again with instructions in the left JD.

    Raises:
        ShapeError: there are no pairs.
        JudgeEndpointError: the endpoint failed; `KeptReplies` keeps the replies so far.
    """
    if not pairs:
        raise ShapeError("there are no pairs of JDs to judge; materialize both generators first")
    payloads = cycle(PAYLOADS)
    attacked_pairs = [pair._replace(left=f"{pair.left}\n{next(payloads)}") for pair in pairs[:probe]]
    judged = []
    with Progress("judge", len(pairs) + len(attacked_pairs), "pairs") as progress:
        for pair in [*pairs, *attacked_pairs]:
            judged.append(judge_pair(chat, pair))
            progress.advance()
    judged, attacked = judged[: len(pairs)], judged[len(pairs) :]
    shift = None
    if attacked:
        shift = float(_signs(attacked, OVERALL).mean() - _signs(judged[:probe], OVERALL).mean())
    return _report(chat.name, pairs, judged, shift)


def judge_pair(chat: Chat, pair: JDPair) -> JudgedPair:
    """Ask the judge in both orders. The OVERALL outcome is the majority of the criteria."""
    replies = [
        parse_answer(chat.reply(messages_for(pair))),
        parse_answer(chat.reply(messages_for(pair._replace(left=pair.right, right=pair.left)))),
    ]
    # +1: left wins, -1: right wins; in the swapped order the left JD is B
    forward, swapped = _answer_signs(replies[0]), -_answer_signs(replies[1])
    agreed = np.where(forward == swapped, forward, 0)
    signs = [*agreed, np.sign(agreed.sum())]
    flips = [*(forward * swapped < 0), forward.sum() * swapped.sum() < 0]
    names = (*CRITERIA, OVERALL)
    answers = [answer for reply in replies if reply is not None for answer in reply.values()]
    return JudgedPair(
        outcomes={name: _OUTCOME_OF_SIGN[int(sign)] for name, sign in zip(names, signs, strict=True)},
        flipped={name: bool(flip) for name, flip in zip(names, flips, strict=True)},
        preferred_first=answers.count("A"),
        n_decided=len(answers) - answers.count("tie"),
        n_invalid=replies.count(None),
    )


def as_json(report: JudgeReport) -> dict[str, Any]:
    """Return the report as plain values for JSON."""
    return report._asdict() | {"criteria": [summary._asdict() for summary in report.criteria]}


def _answer_signs(answers: dict[str, Answer] | None) -> np.ndarray:
    """Return (3,) signs in the order of CRITERIA: 1 for A, -1 for B, 0 for a tie or no answer."""
    if answers is None:
        return np.zeros(len(CRITERIA), int)
    return np.array([_SIGN_OF_ANSWER[answers[criterion]] for criterion in CRITERIA])


def _signs(judged: Sequence[JudgedPair], criterion: str) -> np.ndarray:
    """Return (n,) outcomes of the left JD: 1 win, 0 tie, -1 lose."""
    return np.array([_SIGN_OF_OUTCOME[pair.outcomes[criterion]] for pair in judged])


def _report(name: str, pairs: Sequence[JDPair], judged: Sequence[JudgedPair], shift: float | None) -> JudgeReport:
    n = len(pairs)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAP) / n
    left, right = [pair.left for pair in pairs], [pair.right for pair in pairs]
    left_words, right_words = (np.array([len(words_of(jd)) for jd in jds], float) for jds in (left, right))
    overall = _signs(judged, OVERALL)
    n_decided = sum(pair.n_decided for pair in judged)
    longer = np.sign(left_words - right_words)
    comparable = (longer != 0) & (overall != 0)
    length_ratio = np.log((left_words + 1) / (right_words + 1))
    correlates = n > 2 and length_ratio.std() > 0 and overall.std() > 0
    return JudgeReport(
        judge=name,
        n=n,
        criteria=[_summary(criterion, judged, draws) for criterion in (OVERALL, *CRITERIA)],
        first_place_rate=sum(pair.preferred_first for pair in judged) / n_decided if n_decided else None,
        longer_wins_rate=float((longer == overall)[comparable].mean()) if comparable.any() else None,
        length_correlation=float(np.corrcoef(length_ratio, overall)[0, 1]) if correlates else None,
        mean_words=(float(left_words.mean()), float(right_words.mean())),
        n_invalid=sum(pair.n_invalid for pair in judged),
        n_with_orders=(sum(map(speaks_to_the_judge, left)), sum(map(speaks_to_the_judge, right))),
        injection_shift=shift,
    )


def _summary(criterion: str, judged: Sequence[JudgedPair], draws: np.ndarray) -> JudgeSummary:
    """Summarize one criterion; `draws` are (r, n) bootstrap weights that add up to 1 in each row."""
    signs = _signs(judged, criterion)
    win, tie, lose = (float((signs == sign).mean()) for sign in (1, 0, -1))
    low, high = percentile_interval(draws @ signs)
    flip_rate = float(np.mean([pair.flipped[criterion] for pair in judged]))
    return JudgeSummary(criterion, win, tie, lose, float(signs.mean()), low, high, flip_rate)
