"""What docs/scaling.md prints is what its formulas give for its inputs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_plan_is_what_its_formulas_print() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    block = "".join(f"    {line}\n" for line in printed.getvalue().splitlines())
    assert block.count("\n") > 5
    assert block in PAGE
