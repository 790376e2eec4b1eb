"""The PPO loop on a world of eight tokens whose best policy is known, and what stops, saves and resumes it."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from girl_features.trainers.ppo import PPO, RLResult
from girl_features.trainers.rollouts import log_probabilities, sample
from girl_features.trainers.written_jds import PPOModels
from tests.training_world import EOS, N_TOKENS, PROMPTS, REWARDS, TokenTask, ppo_models, ppo_settings


def _run(folder: Path, models: PPOModels, task: TokenTask | None = None, **changes: object) -> RLResult:
    ppo = PPO(models, task or TokenTask(), TokenTask(), ppo_settings(**changes), max_new_tokens=1, checkpoints=folder)
    return ppo.run()


def _policy(model: object, prompt: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()  # type: ignore[operator]


def _optimum(models: PPOModels, kl_weight: float) -> tuple[list[np.ndarray], float]:
    """pi = pi0 exp(r / lambda) / Z for each prompt, and the mean of KL(pi || pi0) = E[r] / lambda - log Z."""
    policies, kls = [], []
    for prompt in PROMPTS:
        frozen = _policy(models.frozen, prompt)
        tilted = frozen * np.exp(REWARDS / kl_weight)
        policies.append(tilted / tilted.sum())
        kls.append((policies[-1] * REWARDS).sum() / kl_weight - math.log(tilted.sum()))
    return policies, float(np.mean(kls))


def _distance(models: PPOModels, policies: list[np.ndarray]) -> float:
    """The larger total variation between the actor and its optimum, over the prompts."""
    return max(0.5 * np.abs(_policy(models.actor, p) - best).sum() for p, best in zip(PROMPTS, policies, strict=True))


def test_the_policy_finds_the_known_optimum_and_its_kl(tmp_path: Path) -> None:
    models = ppo_models()
    policies, kl = _optimum(models, 0.5)
    assert _distance(models, policies) > 0.3, "there is something to learn"
    changes = {"iterations": 150, "batch_size": 128, "minibatch_size": 128, "epochs": 1, "evaluate_every": 150}
    outcome = _run(tmp_path, models, advantage="plain", learning_rate=5e-3, clip=0.9, **changes)
    assert _distance(models, policies) < 0.1
    assert np.mean([row["kl"] for row in outcome.history[-20:]]) == pytest.approx(kl, rel=0.15)
    assert np.mean([row["explained_variance"] for row in outcome.history[-20:]]) > -0.1


def test_a_k3_penalty_in_the_reward_misses_the_optimum(tmp_path: Path) -> None:
    models = ppo_models()
    policies, _ = _optimum(models, 0.5)
    changes = {"iterations": 150, "batch_size": 128, "minibatch_size": 128, "epochs": 1, "evaluate_every": 150}
    _run(tmp_path, models, advantage="plain", learning_rate=5e-3, clip=0.9, kl_penalty="k3", **changes)
    assert _distance(models, policies) > 0.2


@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path: Path, lora: bool) -> None:
    whole = _run(tmp_path / "whole", models := ppo_models(lora), iterations=6, target_kl=0.1)

    class _KilledError(Exception):
        pass

    def kill(iteration: int, row: dict[str, float]) -> None:
        if iteration == 3:  # one past the checkpoint of iteration 2
            raise _KilledError

    settings = ppo_settings(iterations=6, target_kl=0.1)
    with pytest.raises(_KilledError):
        PPO(ppo_models(lora), TokenTask(), TokenTask(), settings, 1, tmp_path / "cut", after_iteration=kill).run()
    again = _run(tmp_path / "cut", resumed := ppo_models(lora), iterations=6, target_kl=0.1)
    assert len(again.history) == 6
    np.testing.assert_equal(again.history, whole.history)  # to the bit; NaN equals NaN
    assert again.evaluations == whole.evaluations
    for left, right in zip(resumed.actor.parameters(), models.actor.parameters(), strict=True):
        assert torch.equal(left, right)


def test_without_its_adapter_the_actor_is_the_frozen_generator(tmp_path: Path) -> None:
    models, plain = ppo_models(lora=True), ppo_models()
    before = _policy(plain.frozen, PROMPTS[0])
    outcome = _run(tmp_path, models, iterations=4)
    assert outcome.history[0]["kl"] == pytest.approx(0, abs=1e-6), "adapter on and off agree before any step"
    assert outcome.history[-1]["kl"] > 1e-3
    with models.actor.disable_adapter():
        np.testing.assert_allclose(_policy(models.actor, PROMPTS[0]), before, atol=1e-6)


def test_warm_up_trains_the_critic_and_leaves_the_actor_alone(tmp_path: Path) -> None:
    models = ppo_models()
    critic = copy.deepcopy(models.critic)
    outcome = _run(tmp_path, models, iterations=2, critic_warmup=2)
    for left, right in zip(models.actor.parameters(), models.frozen.parameters(), strict=True):
        assert torch.equal(left, right)
    assert any(not torch.equal(a, b) for a, b in zip(models.critic.parameters(), critic.parameters(), strict=True))
    assert "actor_loss" not in outcome.history[0]


def test_nan_stops_the_run_and_the_last_good_weights_are_kept(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", models := ppo_models(), iterations=2)
    stopped = _run(tmp_path / "nan", broken := ppo_models(), TokenTask(nan_from=4), iterations=6)
    assert stopped.stop_reason == "a reward that is not finite at iteration 3"
    assert stopped.best == whole.best
    assert stopped.best is not None
    assert stopped.best["iteration"] == 2
    for left, right in zip(broken.actor.parameters(), models.actor.parameters(), strict=True):
        assert torch.equal(left, right)
        assert left.isfinite().all()


def test_runaway_kl_stops_the_run(tmp_path: Path) -> None:
    outcome = _run(
        tmp_path, ppo_models(), iterations=50, learning_rate=0.1, kl_weight=0.0, stop_kl=0.05, evaluate_every=1
    )
    assert outcome.stop_reason is not None
    assert "above ppo.stop_kl 0.05" in outcome.stop_reason
    assert outcome.best is None or outcome.best["kl"] <= 0.05


def test_the_papers_own_choices_run(tmp_path: Path) -> None:
    outcome = _run(tmp_path, ppo_models(), kl_penalty="paper_kl", ratio="frozen", advantage="plain", kl_weight=0.05)
    assert outcome.stop_reason is None
    assert all(math.isfinite(row["actor_loss"]) for row in outcome.history[1:])


def test_sampling_follows_the_probabilities_that_are_computed() -> None:
    model = ppo_models().actor
    seeds = list(range(4000))
    drawn = sample(model, [PROMPTS[0]] * len(seeds), seeds, max_new_tokens=1, temperature=0.7)
    shares = np.bincount(drawn.completion_ids[:, 0].numpy(), minlength=N_TOKENS) / len(seeds)
    for token in range(N_TOKENS):
        one = drawn._replace(completion_ids=torch.full_like(drawn.completion_ids, token))
        probability = math.exp(log_probabilities(model, one, 0.7)[0, 0].item())
        assert shares[token] == pytest.approx(probability, abs=0.03)


def test_masks_and_log_probabilities_by_hand_and_whatever_the_padding() -> None:
    model = ppo_models().actor
    prompts = [[2, 3], [4, 5, 6, 7, 2]]
    batch = sample(model, prompts, [11, 12], max_new_tokens=6, temperature=1.0)
    assert batch.prompt_mask.tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    together = log_probabilities(model, batch, 1.0)
    for row, prompt in enumerate(prompts):
        ids = batch.completion_ids[row].tolist()
        length = ids.index(EOS) + 1 if EOS in ids else len(ids)
        assert batch.finished[row].item() == (EOS in ids)
        assert batch.completion_mask[row].tolist() == [1.0] * length + [0.0] * (len(ids) - length)
        for place in range(length):  # one token at a time, no padding
            expected = math.log(_policy(model, prompt + ids[:place])[ids[place]])
            assert together[row, place].item() == pytest.approx(expected, abs=1e-4)
        assert together[row, length:].tolist() == [0.0] * (len(ids) - length)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    changes = {"target_kl": 0.1, "batch_size": 12, "minibatch_size": 8, "learning_rate": 3e-3}
    one = PPO(models := ppo_models(), TokenTask(), TokenTask(), ppo_settings(**changes), 3, tmp_path / "one").run()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "--module", "tests.ppo_worker", str(tmp_path), json.dumps(changes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "outcome.json").read_text())
    assert two["processes"] == 2
    for name in ("history", "evaluations"):
        for left, right in zip(getattr(one, name), two[name], strict=True):
            assert left == pytest.approx(right, rel=1e-3, abs=1e-5, nan_ok=True)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["iteration-000002", "iteration-000004"]
    weights, start = load_file(tmp_path / "actor.safetensors"), dict(ppo_models().actor.named_parameters())
    for name, weight in models.actor.named_parameters():
        moved = (weight - start[name]).abs().max()
        assert (weight - weights[name]).abs().max() <= 1e-2 * moved, name


@pytest.mark.parametrize("lora", [False, True])
def test_recomputed_activations_give_the_same_losses(tmp_path: Path, lora: bool) -> None:
    runs, n_forward = [], []
    for recompute in (False, True):
        folder = tmp_path / str(recompute)
        models = ppo_models(lora)
        ppo = PPO(models, TokenTask(), TokenTask(), ppo_settings(), 3, folder, gradient_checkpointing=recompute)
        inner = next(m for name, m in models.actor.named_modules() if name.endswith("o_proj"))
        inner.register_forward_hook(lambda *_, counts=(counts := []): counts.append(torch.is_grad_enabled()))
        runs.append(ppo.run())
        n_forward.append(sum(counts))
        assert not any(m.training for m in models.actor.modules())
    plain, recomputed = runs
    assert n_forward[1] == 2 * n_forward[0] > 0
    for left, right in zip(plain.history, recomputed.history, strict=True):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-7, nan_ok=True)
