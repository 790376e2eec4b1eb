"""Training of the generator (stages 1 and 3), of the reward model (stage 2) and of the student."""

import os

# TRL's trainers report their use to the Hugging Face Hub. `huggingface_hub` reads this variable once, when it is first
# imported, so it has to be set here, before any module of this package imports a Hugging Face library.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
