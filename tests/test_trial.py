"""`girl check --base`: one CV is tried end to end with a base, and what was seen is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.generator.checkpoint import n_parameters
from girl_features.generator.transformers_engine import load_causal_lm
from tests.input_tables import write_tables
from tests.small_bases import CHATML, GEMMA, save_base, small_tokenizer

SAMPLING = {"temperature": 1.0, "max_new_tokens": 24}


def run(folder: Path, base: Path | str, *arguments: str, rows: Any = None) -> tuple[Any, dict[str, Any]]:
    """Run `girl check --base`, and return its result and its JSON."""
    tables = write_tables(folder, rows).model_dump(exclude_defaults=True)
    path = folder / "girl.yaml"
    generator = {"engine": "transformers", "max_cv_tokens": 16}
    path.write_text(yaml.safe_dump({"tables": tables, "generator": generator, "sampling": SAMPLING}))
    target = folder / "out.json"
    command = ["check", "--config", str(path), "--base", str(base), "--json", str(target), *arguments]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    return result, json.loads(target.read_text()) if target.exists() else {}


@pytest.mark.parametrize(
    ("template", "template_name", "line"),
    [
        (CHATML, "chat-2:", "ours, as a system message"),
        (GEMMA, "chat-2:", "ours, in the user's message"),
        (None, "plain-1:", "the prompt is plain text, and begins with our line"),
    ],
)
def test_what_a_base_did_is_shown(tmp_path: Path, template: str | None, template_name: str, line: str) -> None:
    base = save_base(tmp_path / "base", small_tokenizer(template), ends=[2, 6], tie_word_embeddings=True)
    result, seen = run(tmp_path, base)
    assert result.exit_code == 0, result.output
    assert (seen["family"], seen["n_positions"], seen["engine"]) == ("llama", 512, "transformers")
    assert seen["n_parameters"] == n_parameters(base) == sum(p.numel() for p in load_causal_lm(base)[0].parameters())
    assert {"</s>": 2, "<|eot_id|>": 6}.items() <= seen["stop_tokens"].items()
    assert seen["template"].startswith(template_name) and seen["system_line"] == line
    assert (seen["script"], seen["script_known"]) == ("Latin", True)
    assert seen["is_finished"] == (seen["n_new_tokens"] < 24)
    for text in (
        line,
        "512 tokens",
        "</s> (2)",
        "Latin, known",
        f"{seen['n_prompt_tokens']} tokens",
        seen["first_lines"][0],
    ):
        assert text in result.output


def test_a_base_that_only_thinks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("girl_features.generator.prompts.without_thinking", lambda text: "")
    result, _ = run(tmp_path, save_base(tmp_path / "base"))
    assert "no text besides thinking and special tokens; raise `sampling.max_new_tokens`" in str(result.exception)


def test_a_base_that_cannot_be_used_ends_with_the_reason(tmp_path: Path) -> None:
    result, _ = run(tmp_path, tmp_path / "nowhere")
    assert type(result.exception).__name__ == "CheckpointError"  # exit code 2
    base = save_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    result, _ = run(tmp_path, base)
    assert "must hold .safetensors weights" in str(result.exception)


def test_a_cv_is_needed(tmp_path: Path) -> None:
    result, _ = run(tmp_path, save_base(tmp_path / "base"), rows={"job_seekers": []})
    assert "the table job_seekers has no CV to try the base with" in str(result.exception)


def test_strict_is_about_rows(tmp_path: Path) -> None:
    result, _ = run(tmp_path, "smollm2", "--strict")
    assert result.exit_code == 2 and "leave one of them out" in result.output
