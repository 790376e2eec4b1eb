"""Stage 1 on the tables of training_world, for tests that kill it: `python -m tests.sft_worker FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from girl_features.trainers.sft import train_sft
from tests.input_tables import load, write_tables
from tests.training_world import SFT_WINDOWS, sft_config, sft_rows

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(os.environ["SFT_WORKER_THREADS"]))
    with load(write_tables(folder, sft_rows())) as tables:
        train_sft(tables, SFT_WINDOWS, sft_config(folder / "workspace"))
