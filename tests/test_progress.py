"""Progress: plain lines on stderr where there is no terminal, and nothing on stdout."""

from __future__ import annotations

import pytest

from girl_features import progress
from girl_features.progress import Progress


def test_without_a_terminal_it_prints_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with Progress("generate", 4, "CVs") as outer, Progress("encode", 0, "texts", beside=outer) as inner:
        outer.reach(3)
        inner.advance(2)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0].startswith("generate: 3/4 CVs, ") and lines[0].endswith(" s left")
    assert [line.split(",")[0] for line in lines[1:]] == ["encode: 2 texts", "encode: 2 texts", "generate: 3/4 CVs"]


def test_a_quiet_one_and_a_failed_one_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 2, "steps", quiet=True) as bar:
        bar.advance(2)
    with pytest.raises(ValueError), Progress("train", 2, "steps") as bar:
        bar.advance()
        raise ValueError
    assert capsys.readouterr() == ("", "")
