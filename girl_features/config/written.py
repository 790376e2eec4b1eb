"""Settings as a user writes them: in YAML, and after `--set` in a shell."""

from __future__ import annotations

import shlex

import yaml


def setting_text(value: object) -> str:
    """Return a text, or a mapping of texts, as YAML on one line, to stand behind the name of a setting.

    Every text is in double quotes, so that it means the same in block style and between the braces of flow style.
    """
    text: str = yaml.safe_dump(
        value,
        default_flow_style=True,
        default_style='"',
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return text.strip()


def set_option(name: str, value: object) -> str:
    """Return the option that sets `name` to a text or a mapping of texts, with the quotes that a shell takes off."""
    return f"--set {shlex.quote(f'{name}={setting_text(value)}')}"
