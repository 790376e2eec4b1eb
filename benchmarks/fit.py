"""Time the fit of pairs of CV and JD beside the loop that one would write first, and compare their numbers.

    python benchmarks/fit.py --config benchmarks/careers_smollm2.yaml --cvs 20 --json FILE

The loop reads every pair whole, and its JD once more without the CV. Both read the same pairs, the test decisions of
some CVs, with the same model in one process.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import describe, write_json

from girl_features.config import load_config
from girl_features.generator.fit import FitScorer, fit_of
from girl_features.generator.opening import find_generator
from girl_features.generator.prompts import encode_jd, encode_prompt, style_of, template_for
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.input.decision_texts import DecisionTexts, decisions_with_texts
from girl_features.input.splits import cut_windows
from girl_features.input.tables import open_tables
from girl_features.machine import machine_description


@torch.inference_mode()
def read_alone(model: Any, prompt: list[int], jd: list[int]) -> np.ndarray:
    """Return log p of each token of a JD behind a prompt, by one pass over both."""
    ids = torch.tensor([[*prompt, *jd]])
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(jd) + 1).logits[0, :-1].float()
    return np.asarray(torch.log_softmax(logits, -1).gather(1, ids[0, -len(jd) :, None])[:, 0].double().numpy())


def main() -> None:
    """Time both ways, print the ratio and the largest difference, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="girl.yaml of the tables")
    parser.add_argument("--cvs", type=int, default=20, help="CVs, each with all its test decisions (default: 20)")
    parser.add_argument("--set", action="append", default=[], help="override a setting, as `girl --set` does")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    folder, record = find_generator(config)
    style, limits = style_of(record.prompt_version), (record.max_cv_tokens, config.sft.max_jd_tokens)
    with open_tables(config) as tables:
        test = DecisionTexts.of(decisions_with_texts(tables, cut_windows(tables, config.windows).valid_end, None))
    kept = np.isin(test.cvs, list(dict.fromkeys(test.cvs))[: arguments.cvs])
    cvs, jds = list(test.cvs[kept]), list(test.jds[kept])

    scorer = FitScorer(folder, max_cv_tokens=limits[0], max_jd_tokens=limits[1], style=style)
    started = time.perf_counter()
    fits = scorer.score(cvs, jds)
    seconds = time.perf_counter() - started

    model, tokenizer = load_causal_lm(folder)
    template = template_for(tokenizer, style)
    empty = encode_prompt(tokenizer, template, "", limits[0]).ids
    started, by_loop = time.perf_counter(), []
    for cv, jd in zip(cvs, jds, strict=True):
        prompt, ids = encode_prompt(tokenizer, template, cv, limits[0]).ids, encode_jd(tokenizer, jd, limits[1]).ids
        by_loop.append(fit_of(read_alone(model, prompt, ids), read_alone(model, empty, ids)))
    loop_seconds = time.perf_counter() - started

    figures = {
        "config": config.name,
        "n_pairs": len(cvs),
        "n_cvs": len(set(cvs)),
        "n_jds": len(set(jds)),
        "pairs_per_second": round(len(cvs) / seconds, 2),
        "loop_pairs_per_second": round(len(cvs) / loop_seconds, 2),
        "times_as_fast": round(loop_seconds / seconds, 2),
        "largest_difference": float(np.abs(fits - np.array(by_loop)).max()),
    }
    print(describe(figures))
    if arguments.json is not None:
        write_json(arguments.json, {"command": shlex.join(sys.argv), "machine": machine_description(), **figures})


if __name__ == "__main__":
    main()
