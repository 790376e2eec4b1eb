"""PPO on the world of eight tokens, for `accelerate launch`: `python -m tests.ppo_worker FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from girl_features.trainers.ppo import PPO
from girl_features.trainers.processes import is_main, n_processes
from tests.test_ppo import TokenTask, _models, _settings


def main(folder: Path) -> None:
    """Run, and let the main process write what came out."""
    models = _models()
    settings = _settings(target_kl=0.1, batch_size=12, minibatch_size=8, learning_rate=3e-3)
    outcome = PPO(models, TokenTask(), TokenTask(), settings, 3, folder / "checkpoints").run()
    if is_main():
        save_file(dict(models.actor.named_parameters()), folder / "actor.safetensors")
        (folder / "outcome.json").write_text(
            json.dumps([outcome.history, outcome.evaluations, outcome.best, n_processes()])
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
