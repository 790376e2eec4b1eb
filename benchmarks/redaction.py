"""Measure the blacking out of contact details: sentences in ten scripts, both ways, and time.

    python benchmarks/redaction.py [--sentences N] [--seed N] [--markdown FILE]

The corpus is made by redaction_corpus.py. The rules were tuned on the part `rules`; `held-out` tests them. Figures that
were measured once are in redaction_data/notes.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from measuring import page_head, write_page
from redaction_corpus import KINDS, PARTS, SCRIPTS, Sentence, bare_numbers, contact_sentences, plain_sentences

from girl_features.generator.redaction import ContactDetail, contact_details, redact

N_SHOWN = 20  # failures in the page
_LAYOUT = " ()"  # characters that say nothing, so that they may be left of a contact detail
NOTES = Path(__file__).parent / "redaction_data" / "notes.md"
Finder = Callable[[str], Iterable[ContactDetail]]


class Count(NamedTuple):
    """Results of n sentences of one script and kind."""

    n: int = 0
    n_found: int = 0  # sentences in which nothing of the contact detail is left
    n_beyond: int = 0  # sentences in which more than the contact detail is gone
    failures: tuple[str, ...] = ()


def counts_of(sentences: Sequence[Sentence], find: Finder) -> dict[tuple[str, str], Count]:
    """Return the results of `find` by script and kind."""
    counts: dict[tuple[str, str], Count] = {}
    for sentence in sentences:
        gone = {i for start, end, _ in find(sentence.text) for i in range(start, end)}
        wanted = set(range(sentence.start, sentence.end))
        is_found = all(sentence.text[i] in _LAYOUT for i in wanted - gone)
        is_beyond = bool(gone - wanted)
        count = counts.get((sentence.script, sentence.kind), Count())
        failed = () if is_found and not is_beyond else (sentence.text,)
        counts[sentence.script, sentence.kind] = Count(
            count.n + 1, count.n_found + is_found, count.n_beyond + is_beyond, count.failures + failed
        )
    return counts


def corpus_lines(n: int, seed: int, find: Finder) -> Iterator[str]:
    """Yield the tables of both parts, with `n` sentences for each script and kind, and then the failures."""
    failures: list[str] = []
    for part in PARTS:
        counts = counts_of([*contact_sentences(part, n, seed), *plain_sentences(part, 3 * n, seed)], find)
        contacts = [count for (_, kind), count in counts.items() if kind != "none"]
        n_plain = sum(counts[script, "none"].n for script in SCRIPTS)
        n_false = sum(counts[script, "none"].n_beyond for script in SCRIPTS)
        n_contacts = sum(count.n for count in contacts)
        yield f"## Part `{part}`"
        yield ""
        yield (
            f"{n_contacts:,} sentences with a contact detail: recall "
            f"{sum(count.n_found for count in contacts) / n_contacts:.4f}; in "
            f"{sum(count.n_beyond for count in contacts)} more than the contact detail was redacted. "
            f"{n_plain:,} sentences without one: {n_false} false alarms ({n_false / n_plain:.2%})."
        )
        yield ""
        yield f"| script | {' | '.join(f'{kind} recall' for kind in KINDS)} | too much redacted | false alarms |"
        yield "|---|" + "---|" * (len(KINDS) + 2)
        for script in SCRIPTS:
            recalls = [counts[script, kind].n_found / counts[script, kind].n for kind in KINDS]
            beyond = sum(counts[script, kind].n_beyond for kind in KINDS) / sum(
                counts[script, kind].n for kind in KINDS
            )
            false = counts[script, "none"].n_beyond / counts[script, "none"].n
            yield f"| {script} | {' | '.join(f'{recall:.3f}' for recall in recalls)} | {beyond:.2%} | {false:.2%} |"
        yield ""
        failures += [text for count in counts.values() for text in count.failures]
    yield f"Failures in both parts: {len(failures)}."
    yield ""
    yield from (f"- `{text}`" for text in failures[:N_SHOWN])
    bare = counts_of(bare_numbers(seed), find)
    yield "## Phone numbers alone"
    yield ""
    yield "Each format of both parts as a text of its own, in each kind of digits, without a word around it."
    yield ""
    yield "| script | formats | found | not found |"
    yield "|---|---|---|---|"
    for (script, _), count in bare.items():
        missed = ", ".join(f"`{text}`" for text in count.failures)
        yield f"| {script} | {count.n} | {count.n_found} | {missed} |"
    yield ""


def time_lines(n: int, seed: int) -> Iterator[str]:
    """Yield how long `redact` takes for the held-out sentences as one text for each script."""
    sentences = [*contact_sentences("held-out", n, seed), *plain_sentences("held-out", 3 * n, seed)]
    yield "## Time"
    yield ""
    yield "The held-out sentences of a script as one text: far more numbers than a JD has."
    yield ""
    yield "| script | characters | contact details | microseconds per 1,000 characters |"
    yield "|---|---|---|---|"
    for script in SCRIPTS:
        text = "\n".join(sentence.text for sentence in sentences if sentence.script == script)
        began = time.perf_counter()
        n_found = redact(text).n_found
        seconds = time.perf_counter() - began
        yield f"| {script} | {len(text):,} | {n_found:,} | {1e9 * seconds / len(text):,.0f} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=1_000, help="sentences for each script, kind and part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path, help="write the page here")
    args = parser.parse_args()
    lines = page_head("Results of blacking out contact details", {"Seed": str(args.seed)})
    lines += corpus_lines(args.sentences, args.seed, contact_details)
    lines += time_lines(args.sentences, args.seed)
    lines += NOTES.read_text("utf-8").splitlines()
    print("\n".join(lines))
    write_page(args.markdown, [*lines, ""])


if __name__ == "__main__":
    main()
