"""Trial of a base model: one CV, from the prompt to the JD, with everything that was seen on the way."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from girl_features.config import GirlConfig
from girl_features.contract import SamplingContract, sampling_seed, text_hash
from girl_features.errors import CheckpointError
from girl_features.generator.bases.finding import find_base
from girl_features.generator.chat_template import chat_prompt
from girl_features.generator.checkpoint import n_parameters, weights_hash
from girl_features.generator.engines import fastest_engine, start_engine
from girl_features.generator.gate import clean, defect
from girl_features.generator.prompts import ROLE, instruction, template_for
from girl_features.generator.tokens import load_config, load_tokenizer, n_positions, stop_ids

_NO_CHAT = {"tiny": "none", "plain": "the prompt is plain text, and begins with our line"}
N_LINES = 6  # of the JD that are shown


class Trial(NamedTuple):
    """Behaviour of a base model with one CV."""

    base: str
    folder: str
    weights_sha256: str
    family: str
    n_parameters: int
    n_positions: int | None  # tokens that it reads at once; None: no limit
    stop_tokens: dict[str, int]  # token -> id
    template: str  # name and hash
    system_line: str  # where the line about the recruiter stands
    engine: str
    n_prompt_tokens: int
    cv_truncated: bool
    load_seconds: float  # an export for OpenVINO, which is made once, is part of it
    seconds: float
    n_new_tokens: int
    is_finished: bool
    defect: str | None  # why the JD would not be stored; None: it would be
    jd: str

    @property
    def first_lines(self) -> list[str]:
        """The first lines of the JD that are not blank."""
        return [line for line in self.jd.splitlines() if line.strip()][:N_LINES]


def try_base(name: str, cv: str, config: GirlConfig) -> Trial:
    """Let the base model `name` write one JD for `cv`, untuned, with the sampling and the engine of `config`.

    Raises:
        CheckpointError: the model cannot be had or loaded, or writes nothing.
        ConfigError: the engine is not installed.
    """
    folder = find_base(name, config.bases_dir)
    digest, settings, tokenizer = weights_hash(folder), load_config(folder), load_tokenizer(folder)
    engine = fastest_engine() if config.generator.engine == "auto" else config.generator.engine
    sampling, style = SamplingContract(**config.sampling.model_dump()), config.generator.prompt
    started = time.monotonic()
    generator = start_engine(
        engine,
        folder,
        sampling,
        config.generator.max_cv_tokens,
        style=style,
        batch_size=1,
        threads=config.generator.threads,
        exports=config.exports_dir,
    )
    loaded = time.monotonic()
    [[result]] = generator.generate([cv], [[sampling_seed(text_hash(cv), digest, 0)]])
    seconds = time.monotonic() - loaded
    jd = clean(result.text)
    if not jd:
        raise CheckpointError(
            f"the base {name!r} wrote {result.n_new_tokens} tokens for the first CV, but no text besides thinking and "
            f"special tokens; raise `sampling.max_new_tokens`, or take another base"
        )
    return Trial(
        base=name,
        folder=str(folder),
        weights_sha256=digest,
        family=settings.model_type,
        n_parameters=n_parameters(folder),
        n_positions=n_positions(settings),
        stop_tokens={tokenizer.convert_ids_to_tokens(i): i for i in stop_ids(folder, tokenizer)},
        template=template_for(tokenizer, style).version,
        system_line=_system_line(tokenizer),
        engine=engine,
        n_prompt_tokens=result.n_prompt_tokens,
        cv_truncated=result.cv_truncated,
        load_seconds=round(loaded - started, 2),
        seconds=round(seconds, 2),
        n_new_tokens=result.n_new_tokens,
        is_finished=result.finish_reason == "stop",
        defect=defect(jd) or (None if result.finish_reason == "stop" else "unfinished"),
        jd=jd,
    )


def _system_line(tokenizer: Any) -> str:
    kind = template_for(tokenizer).name.partition("-")[0]
    if kind != "chat":
        return _NO_CHAT[kind]
    has_system = chat_prompt(tokenizer, ROLE, instruction()).has_system
    return "ours, as a system message" if has_system else "ours, in the user's message"
