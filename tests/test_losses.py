"""Every loss on numbers worked by hand, and all of them against one loop over sequences and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from girl_features.trainers import losses

# one sequence of two tokens and one of one token, the second place of which is padding
ACTOR = tensor([[0.5, 0.25], [0.5, 1.0]]).log()
FROZEN = tensor([[0.25, 0.5], [0.25, 0.001]]).log()
MASK = tensor([[1.0, 1.0], [1.0, 0.0]])
LN2 = math.log(2)


def test_k1_by_hand() -> None:
    # token ratios actor/frozen 2 and 1/2: ln 2 - ln 2 = 0; the second sequence has the one token, ln 2
    assert losses.k1(ACTOR, FROZEN, MASK).tolist() == pytest.approx([0.0, LN2], abs=1e-6)


def test_k3_by_hand() -> None:
    # x = frozen/actor is 1/2 and 2: (1/2 - 1 + ln 2) + (2 - 1 - ln 2) = 1/2; the second: ln 2 - 1/2 = .1931
    assert losses.k3(ACTOR, FROZEN, MASK).tolist() == pytest.approx([0.5, LN2 - 0.5], abs=1e-6)


def test_paper_kl_by_hand() -> None:
    # CE = actor/frozen is 2 and 1/2: ((2 - 1 - ln 2) + (1/2 - 1 + ln 2)) / 2 = 1/4; the second: 1 - ln 2 = .3069
    assert losses.paper_kl(ACTOR, FROZEN, MASK).tolist() == pytest.approx([0.25, 1 - LN2], abs=1e-6)


def test_under_the_actors_samples_k1_and_k3_are_the_kl_and_the_printed_form_is_not() -> None:
    # actor (3/4, 1/4), frozen (1/4, 3/4): KL = 3/4 ln 3 - 1/4 ln 3 = .5493
    # printed form: E[CE] - 1 - E[log CE] = (3/4 * 3 + 1/4 * 1/3) - 1 - .5493 = 1.3333 - .5493 = .7840
    actor, frozen = tensor([[0.75], [0.25]]), tensor([[0.25], [0.75]])
    expect = {losses.k1: 0.5 * math.log(3), losses.k3: 0.5 * math.log(3), losses.paper_kl: 4 / 3 - 0.5 * math.log(3)}
    for estimate, value in expect.items():
        per_outcome = estimate(actor.log(), frozen.log(), torch.ones(2, 1))
        assert (per_outcome * actor[:, 0]).sum().item() == pytest.approx(value, abs=1e-6), estimate


def test_only_k1_in_the_reward_has_the_gradient_of_the_kl() -> None:
    # the policy gradient of a penalty p is E[p grad log pi]; pi = (3/4, 1/4), pi0 = (1/4, 3/4), logits (s, 0):
    # dKL/ds = pi(1 - pi) (log-ratio_1 - log-ratio_2) = 3/16 * (ln 3 + ln 3) = .4120
    pi, pi0 = tensor([[0.75], [0.25]]), tensor([[0.25], [0.75]])
    score = tensor([0.25, -0.75])  # d log pi / ds: 1 - pi_1 and -pi_1
    gradient = {e: (e(pi.log(), pi0.log(), torch.ones(2, 1)) * pi[:, 0] * score).sum().item() for e in ESTIMATORS}
    assert gradient[losses.k1] == pytest.approx(3 / 16 * 2 * math.log(3), abs=1e-6)
    # k3: (1/3 - 1 + ln 3 = .4319) and (3 - 1 - ln 3 = .9014): 3/16 * (.4319 - .9014) = -.0880, of the wrong sign
    assert gradient[losses.k3] == pytest.approx(3 / 16 * ((1 / 3 - 1 + math.log(3)) - (2 - math.log(3))), abs=1e-6)
    assert gradient[losses.k3] < 0


ESTIMATORS = (losses.k1, losses.k3, losses.paper_kl)


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_estimators_stay_finite_where_a_token_became_impossible(estimate) -> None:  # type: ignore[no-untyped-def]
    for actor, frozen in ((-200.0, -0.1), (-0.1, -200.0)):
        assert estimate(tensor([[actor]]), tensor([[frozen]]), torch.ones(1, 1)).isfinite().all()


def test_reward_and_advantages_by_hand() -> None:
    reward = losses.sequence_reward(tensor([2.0, 1.0]), tensor([4.0, 0.0]), 0.25)  # 2 - 1 and 1
    assert reward.tolist() == [1.0, 1.0]
    assert losses.plain_advantage(tensor([3.0, 1.0]), tensor([1.0, 1.0])).tolist() == [2.0, 0.0]
    # 2 and 0 have mean 1 and standard deviation 1
    whitened = losses.whitened_advantage(tensor([3.0, 1.0]), tensor([1.0, 1.0]))
    assert whitened.tolist() == pytest.approx([1.0, -1.0])
    assert losses.whitened_advantage(tensor([1.0, 1.0]), tensor([0.0, 0.0])).tolist() == [0.0, 0.0]


def test_surrogate_by_hand() -> None:
    # eps .2; a = 1: ratios 2 and 1/2 give min(2, 1.2) = 1.2 and min(.5, .8) = .5; a = -1, ratio 2: min(-2, -1.2) = -2
    # three tokens count: -(1.2 + .5 - 2) / 3 = .1
    log_ratio = tensor([[2.0, 0.5], [2.0, 9.0]]).log()
    assert losses.clipped_surrogate(log_ratio, tensor([1.0, -1.0]), MASK, 0.2).item() == pytest.approx(0.1, abs=1e-6)


def test_surrogate_pushes_good_sequences_up_and_stops_at_the_clip() -> None:
    log_ratio = tensor([[0.0], [0.0], [math.log(1.3)]], requires_grad=True)
    losses.clipped_surrogate(log_ratio, tensor([1.0, -1.0, 1.0]), torch.ones(3, 1), 0.2).backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad[:, 0].tolist() == pytest.approx([-1 / 3, 1 / 3, 0.0])


def test_critic_loss_and_explained_variance_by_hand() -> None:
    assert losses.critic_loss(tensor([0.0, 1.0]), tensor([1.0, 3.0])).item() == 2.5  # (1 + 4) / 2
    # r = (0, 2) has variance 1; r - V = (0, 1) has variance 1/4
    assert losses.explained_variance(tensor([0.0, 1.0]), tensor([0.0, 2.0])) == 0.75
    assert math.isnan(losses.explained_variance(tensor([0.0, 1.0]), tensor([2.0, 2.0])))


def test_the_kl_weight_follows_its_target() -> None:
    assert losses.adapted_kl_weight(1.0, kl=100.0, target_kl=5.0) == pytest.approx(1.1)  # .5 * (clipped to .2)
    assert losses.adapted_kl_weight(1.0, kl=0.0, target_kl=5.0) == pytest.approx(0.9)
    assert losses.adapted_kl_weight(1.0, kl=5.5, target_kl=5.0) == pytest.approx(1.05)


def _oracle(actor, reference, frozen, lengths, scores, values, kl_weight, clip):  # type: ignore[no-untyped-def]
    """One sequence and one token at a time, from the equations, in Python floats."""
    total, n_tokens, mse = 0.0, 0, 0.0
    for i, length in enumerate(lengths):
        kl = sum(actor[i][j] - frozen[i][j] for j in range(length))
        reward = scores[i] - kl_weight * kl
        advantage = reward - values[i]
        mse += (reward - values[i]) ** 2 / len(lengths)
        for j in range(length):
            ratio = math.exp(actor[i][j] - reference[i][j])
            clipped = max(1 - clip, min(1 + clip, ratio))
            total += min(ratio * advantage, clipped * advantage)
            n_tokens += 1
    return -total / n_tokens, mse


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6))
def test_the_whole_objective_equals_a_loop_over_sequences(seed: int, b: int, t: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    actor, reference, frozen = (-3 * torch.rand(b, t, generator=draw, dtype=torch.float64) for _ in range(3))
    lengths = torch.randint(1, t + 1, (b,), generator=draw)
    scores, values = torch.randn(2, b, generator=draw, dtype=torch.float64)
    mask = (torch.arange(t) < lengths[:, None]).double()
    rewards = losses.sequence_reward(scores, losses.k1(actor, frozen, mask), 0.3)
    advantages = losses.plain_advantage(rewards, values)
    loss = losses.clipped_surrogate(actor - reference, advantages, mask, 0.2).item()
    arguments = (x.tolist() for x in (actor, reference, frozen, lengths, scores, values))
    expected_loss, expected_mse = _oracle(*arguments, 0.3, 0.2)
    assert loss == pytest.approx(expected_loss, abs=1e-9)
    assert losses.critic_loss(values, rewards).item() == pytest.approx(expected_mse, abs=1e-9)
