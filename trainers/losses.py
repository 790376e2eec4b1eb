"""The equations of stages 2 and 3 as pure functions of tensors (GIRL, eq. 2-8; docs/adr/0009).

b sequences of up to t tokens. `mask` is (b, t), 1 on the JD's tokens and its end token, 0 on padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MAX_LOG_RATIO = 20.0  # e^20 = 5e8: beyond it a ratio says "runaway" and nothing finer


def pairwise_reward_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -log sigma(U(C, J+) - U(C, J-)) over (b,) scores of each (GIRL, eq. 2, with its minus sign)."""
    return -logsigmoid(chosen - rejected).mean()


def k1(actor: Tensor, frozen: Tensor, mask: Tensor) -> Tensor:
    """(b, t) log-probabilities -> (b,) sum of log(actor / frozen), nats a sequence.

    Unbiased for KL(actor || frozen) under the actor's own samples; single values may be negative. As a
    penalty in the reward its policy gradient is the gradient of the KL, so it is the default there.
    """
    return ((actor - frozen) * mask).sum(-1)


def k3(actor: Tensor, frozen: Tensor, mask: Tensor) -> Tensor:
    """(b, t) log-probabilities -> (b,) sum of x - 1 - log x with x = frozen / actor, nats a sequence.

    Unbiased for the same KL, never negative and of less variance: the estimate that is logged and watched.
    """
    log_x = _clamped(frozen - actor)
    return ((log_x.exp() - 1 - log_x) * mask).sum(-1)


def paper_kl(actor: Tensor, frozen: Tensor, mask: Tensor) -> Tensor:
    """(b, t) log-probabilities -> (b,) mean of CE - 1 - log CE with CE = actor / frozen (GIRL, eq. 3, as printed).

    Under the actor's samples its expectation is the chi-square divergence less the KL, a token.
    """
    log_ce = _clamped(actor - frozen)
    return ((log_ce.exp() - 1 - log_ce) * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def sequence_reward(scores: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
    """(b,) r = U(C, J') - lambda KL (GIRL, eq. 4)."""
    return scores - kl_weight * kl


def plain_advantage(rewards: Tensor, values: Tensor) -> Tensor:
    """(b,) a = r - V(C), one a sequence (GIRL, eq. 5). The values carry no gradient here."""
    return rewards - values.detach()


def whitened_advantage(rewards: Tensor, values: Tensor) -> Tensor:
    """(b,) `plain_advantage` with mean 0 and standard deviation 1 over the batch; zeros where all are equal."""
    plain = plain_advantage(rewards, values)
    return (plain - plain.mean()) / (plain.std(correction=0) + 1e-8)


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """The actor's loss: -mean over tokens of min(rho a, clip(rho, 1 - eps, 1 + eps) a) (GIRL, eq. 6 and 7, negated).

    Args:
        log_ratio: (b, t) log of actor / reference. The reference is PPO's, the policy that sampled, or the
            paper's, the frozen generator: whichever log-probabilities the caller subtracted.
        advantages: (b,), each shared by all tokens of its sequence.
        mask: (b, t).
        clip: epsilon.
    """
    ratio = _clamped(log_ratio).exp()
    a = advantages[:, None]
    per_token = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
    return -(per_token * mask).sum() / mask.sum().clamp(min=1)


def critic_loss(values: Tensor, rewards: Tensor) -> Tensor:
    """Mean of (r - V(C))^2 over (b,) (GIRL, eq. 8)."""
    return (rewards - values).square().mean()


def explained_variance(values: Tensor, rewards: Tensor) -> float:
    """1 - Var(r - V) / Var(r): 1 is a perfect critic, 0 one no better than a constant; NaN where r is constant."""
    variance = rewards.var(correction=0)
    return float(1 - (rewards - values).var(correction=0) / variance) if variance > 0 else float("nan")


def adapted_kl_weight(kl_weight: float, kl: float, target_kl: float, rate: float = 0.5) -> float:
    """The next iteration's lambda: up where `kl` is above its target, down where below, by `rate` x 20 % at most."""
    error = min(max(kl / target_kl - 1, -0.2), 0.2)
    return kl_weight * (1 + rate * error)


def _clamped(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
