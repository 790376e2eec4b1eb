"""Plain text of CVs and JDs that were kept as HTML. `clean_cv` and the input tables share it, as texts are hashed."""

from __future__ import annotations

import html
import re
from html.entities import html5
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

STRIP_HTML = "girl_strip_html"  # the DuckDB function that `create_strip_html` makes

# Only elements of HTML are tags: `<`, as in `C < D` or `List<String>`, is a character like any other.
_BREAKS = re.findall(
    r"\w+",
    "address article aside blockquote body br caption center dd details div dl dt fieldset figure footer form h1 h2 "
    "h3 h4 h5 h6 head header hr html legend li main menu nav ol option p pre section select summary table tbody tfoot "
    "thead title tr ul",
)
_SPACES = ["td", "th"]
_HIDDEN = ["script", "style"]  # what stands between their tags is no text
_INLINE = re.findall(
    r"\w+",
    "a abbr acronym b base bdi bdo big button cite code col colgroup data del dfn em embed font i iframe img input ins "
    "kbd label link map mark meta noscript object param picture q s samp small source span strike strong sub sup svg "
    "textarea time tt u var video wbr",
)
_NAMES = frozenset([*_BREAKS, *_SPACES, *_HIDDEN, *_INLINE])
_MARKUP = re.compile(r"(<!--|-->|<!(?i:doctype)[^<>]*>|</?[A-Za-z][A-Za-z0-9]*(?:[\s/][^<>]*)?>)")
_TAG_NAME = re.compile("</?([A-Za-z0-9]+)")
_ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
SQL_HAS_HTML = (
    rf"(?i)<!--|</?(?:{'|'.join(sorted(_NAMES))})(?:[\s/][^<>]*)?>"
    r"|&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|nbsp|amp|lt|gt|quot);"
)


def html_to_text(text: str) -> str:
    """Return `text` without comments, tags and what only browsers read, entities replaced by their characters.

    Tags that end a line become a line feed, and those of table cells a space. A text without tags and entities
    stays as it is.
    """
    parts = _MARKUP.split(text)
    if any(map(_is_html, parts[1::2])):
        lines = (line.strip() for line in "".join(_visible(parts)).split("\n"))
        text = "\n".join(line for line in lines if line)
    return _ENTITY.sub(_character, text)


def _is_html(markup: str) -> bool:
    """True for a comment, a document type, and a tag of an element that HTML has."""
    return markup.startswith("<!") or _name(markup) in _NAMES


def _character(entity: re.Match[str]) -> str:
    """Return the character of an entity; an unknown entity stays as it is."""
    name = entity[1]
    return html.unescape(entity[0]) if name[0] == "#" else html5.get(f"{name};", entity[0])


def _visible(parts: list[str]) -> list[str]:
    """Return the texts and the breaks among `parts`, in which every second one is markup."""
    # the last place where a comment, a script or a style ends; after it, they have no end and hide nothing
    last_end = {_closing(part): i for i, part in enumerate(parts) if i % 2}
    visible, hidden_until = [], ""
    for i, part in enumerate(parts):
        if hidden_until:
            hidden_until = "" if i % 2 and _closing(part) == hidden_until else hidden_until
        elif i % 2 == 0 or not _is_html(part):
            visible.append(part)
        elif part == "<!--":
            hidden_until = "-->" if last_end.get("-->", 0) > i else ""
        else:
            name = _name(part)
            if name in _HIDDEN and part[1] != "/" and last_end.get(f"/{name}", 0) > i:
                hidden_until = f"/{name}"
            visible.append("\n" if name in _BREAKS else " " if name in _SPACES else "")
    return visible


def _name(tag: str) -> str:
    name = _TAG_NAME.match(tag)
    return name[1].lower() if name else ""


def _closing(markup: str) -> str:
    return markup if markup == "-->" else f"/{_name(markup)}" if markup.startswith("</") else ""


def create_strip_html(connection: duckdb.DuckDBPyConnection) -> None:
    """Give `connection` the function STRIP_HTML, which is `html_to_text`, unless it has it."""
    if connection.execute(f"SELECT 1 FROM duckdb_functions() WHERE function_name = '{STRIP_HTML}'").fetchone():
        return

    from duckdb.func import PythonUDFType

    connection.create_function(
        STRIP_HTML, lambda texts: _strip_column(texts), ["VARCHAR"], "VARCHAR", type=PythonUDFType.ARROW
    )  # a lambda, because DuckDB would evaluate the annotations of a function


def _strip_column(texts: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    return pa.array([None if text is None else html_to_text(text) for text in texts.to_pylist()], pa.string())
