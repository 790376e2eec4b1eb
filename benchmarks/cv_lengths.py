"""Measure how many tokens of a CV a tuned generator needs, by the loss on the pairs that its training held out.

    python benchmarks/cv_lengths.py --config benchmarks/careers_smollm2.yaml --lengths 80,160,320,640 --json FILE

A CV keeps its first tokens, and begins with the newest job. The generator was tuned on CVs of one length; a longer one
is new to it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from measuring import describe, write_json

from girl_features.config import load_config
from girl_features.generator.opening import find_generator
from girl_features.generator.prompts import style_of, template_for
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.input.splits import cut_windows, sft_pairs
from girl_features.input.tables import open_tables
from girl_features.machine import machine_description
from girl_features.progress import Progress
from girl_features.trainers.held_out import held_out_metrics, mean_loss
from girl_features.trainers.training_data import hold_out_seekers, tokenize_pairs


def main() -> None:
    """Measure the loss at each length of the CV, print the rows, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="girl.yaml of the tables")
    parser.add_argument("--lengths", default="80,160,320,640", help="tokens of a CV (default: 80,160,320,640)")
    parser.add_argument("--pairs", type=int, default=64, help="held-out pairs (default: 64)")
    parser.add_argument("--set", action="append", default=[], help="override a setting, as `girl --set` does")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    folder, record = find_generator(config)
    model, tokenizer = load_causal_lm(folder)
    with open_tables(config) as tables:
        pairs = sft_pairs(tables, cut_windows(tables, config.windows))
    _, held_out = hold_out_seekers(pairs, config.sft.holdout, config.sft.seed)
    template, rows = template_for(tokenizer, style_of(record.prompt_version)), []
    lengths = [int(length) for length in arguments.lengths.split(",")]
    with Progress("reading", len(lengths), "lengths") as progress:
        for length in lengths:
            part = tokenize_pairs(tokenizer, template, held_out.head(arguments.pairs), length, config.sft.max_jd_tokens)
            metrics = held_out_metrics(mean_loss(model, part.rows), tokenizer, part.rows, part.rows)
            bits = round(metrics["heldout_bits_per_character"], 4)
            rows.append(
                {
                    "config": config.name,
                    "trained_on_cv_tokens": record.max_cv_tokens,
                    "cv_tokens": length,
                    "n_pairs": len(part.rows),
                    "cut_cvs": round(part.n_cv_truncated / len(part.rows), 3),
                    "bits_per_character": bits,
                }
            )
            progress.advance()
            print(describe(rows[-1]), flush=True)
    if arguments.json is not None:
        write_json(arguments.json, {"command": shlex.join(sys.argv), "machine": machine_description(), "rows": rows})


if __name__ == "__main__":
    main()
