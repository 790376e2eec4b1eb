"""The equations of stage 3 as pure functions of tensors (GIRL, eq. 3-8; changes: docs/adr/0009).

A batch has b sequences of up to t tokens. `mask` is (b, t), 1 on the JD's tokens and its end token, 0 on padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0  # e^20 = 5e8; any larger ratio means that the policy has diverged


def k1(actor_logps: Tensor, frozen_logps: Tensor, mask: Tensor) -> Tensor:
    """Return the (b,) sums of log(actor / frozen) in nats. The arguments are (b, t) log-probabilities.

    This estimate of KL(actor || frozen) is unbiased for samples of the actor; single values may be negative. It is
    the default penalty in the reward, because its policy gradient there is that of the KL.
    """
    return ((actor_logps - frozen_logps) * mask).sum(-1)


def k3(actor_logps: Tensor, frozen_logps: Tensor, mask: Tensor) -> Tensor:
    """Return the (b,) sums of x - 1 - log x in nats, where x = frozen / actor. The arguments are as in `k1`.

    This estimate of the same KL is also unbiased, never negative and less noisy. It is logged, and compared with the
    limits on the KL.
    """
    log_x = _clamped(frozen_logps - actor_logps)
    return ((log_x.exp() - 1 - log_x) * mask).sum(-1)


def paper_kl(actor_logps: Tensor, frozen_logps: Tensor, mask: Tensor) -> Tensor:
    """Return the (b,) means of c - 1 - log c, where c = actor / frozen, the paper's CE (GIRL, eq. 3, as printed).

    Its expectation under the actor, per token, is the chi-square divergence minus the KL, not the KL
    (docs/adr/0009).
    """
    log_ratio = _clamped(actor_logps - frozen_logps)
    return ((log_ratio.exp() - 1 - log_ratio) * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def sequence_reward(scores: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
    """Return the (b,) rewards r = U(C, J') - lambda KL (GIRL, eq. 4)."""
    return scores - kl_weight * kl


def plain_advantage(rewards: Tensor, values: Tensor) -> Tensor:
    """Return the (b,) advantages a = r - V(C), one a sequence (GIRL, eq. 5). No gradient flows into the values."""
    return rewards - values.detach()


def whitened_advantage(rewards: Tensor, values: Tensor) -> Tensor:
    """Return `plain_advantage` with mean 0 and standard deviation 1 over the batch; all zeros if it is constant."""
    plain = plain_advantage(rewards, values)
    return (plain - plain.mean()) / (plain.std(correction=0) + 1e-8)


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return the actor's loss: -mean over tokens of min(rho a, clip(rho, 1 - eps, 1 + eps) a) (GIRL, eq. 6-7, negated).

    Args:
        log_ratio: (b, t) log of rho = actor / reference. The reference of PPO is the policy that sampled, and the
            paper's is the frozen generator (docs/adr/0009).
        advantages: (b,), one for all tokens of a sequence.
        mask: (b, t).
        clip: epsilon.
    """
    ratio = _clamped(log_ratio).exp()
    a = advantages[:, None]  # (b, 1)
    per_token = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
    return -(per_token * mask).sum() / mask.sum().clamp(min=1)


def critic_loss(values: Tensor, rewards: Tensor) -> Tensor:
    """Return the mean of (r - V(C))^2 over the (b,) sequences (GIRL, eq. 8)."""
    return (rewards - values).square().mean()


def explained_variance(values: Tensor, rewards: Tensor) -> float:
    """Return 1 - Var(r - V) / Var(r).

    It is 1 for a perfect critic, 0 for a constant, and NaN if r is constant.
    """
    variance = rewards.var(correction=0)
    if not variance > 0:
        return float("nan")
    return float(1 - (rewards - values).var(correction=0) / variance)


def adapted_kl_weight(kl_weight: float, kl: float, target_kl: float, rate: float = 0.5) -> float:
    """Return the next lambda: moved up if `kl` is above its target, down if below, by at most `rate` x 20 %."""
    error = min(max(kl / target_kl - 1, -0.2), 0.2)
    return kl_weight * (1 + rate * error)


def _clamped(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
