"""PPO on the world of eight tokens, for `torchrun`: `python -m tests.ppo_worker FOLDER SETTINGS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from girl_features.trainers.ppo import PPO
from girl_features.trainers.processes import is_main, n_processes
from tests.training_world import TokenTask, ppo_models, ppo_settings


def main(folder: Path, changes: dict[str, object]) -> None:
    """Run, and let the main process write what came out."""
    models = ppo_models()
    outcome = PPO(models, TokenTask(), TokenTask(), ppo_settings(**changes), 3, folder / "checkpoints").run()
    if is_main():
        save_file(dict(models.actor.named_parameters()), folder / "actor.safetensors")
        (folder / "outcome.json").write_text(json.dumps({**outcome._asdict(), "processes": n_processes()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
