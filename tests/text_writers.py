"""Writers of CSV and TSV files for tests, made from the descriptions of the formats, without any parser."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

Row = Sequence[str | None]

PIECES = (
    '"', '""', "'", ",", "\t", "\n", "\r\n", "\r", "\\", "\\N", "\\n", "\\t", "\\0", "NULL", " ", "  ", "#", ";", "|",
    "é", "\u4e16\u754c", "\u00a0", "a", "bc", "0", "12", "x41", ".", "\\.", "a,b,c", 's1,"cv",2020-01-01\n', 's1\tcv\n',
    '"x","y"', 'C:\\new\\table', '5" pipe',
)  # fmt: skip


def hostile_text(random: Random) -> str:
    """Return a text made of what means something to one format or another. It begins and ends with a letter or sign."""
    return "".join(random.choice(PIECES) for _ in range(random.randrange(8)))


def rfc_line(random: Random, fields: Row, delimiter: str, end: str) -> str:
    """Return a row with fields in double quotes where they need them, and here and there where they do not."""
    written = []
    for field in fields:
        text = field or ""
        is_special = any(sign in text for sign in (delimiter, '"', "\n", "\r"))
        quoted = '"' + text.replace('"', '""') + '"'
        written.append(quoted if is_special or random.random() < 0.2 else text)
    return delimiter.join(written) + end


def lax_csv_line(random: Random, fields: Row, end: str) -> str:
    """Return a row of a program that writes a quotation mark in the middle of a field as it is."""
    texts = [field or "" for field in fields]
    may_be_bare = [not text.lstrip().startswith('"') and not any(c in text for c in ",\n\r") for text in texts]
    return (
        ",".join(
            text if bare else rfc_line(random, [text], ",", "") for text, bare in zip(texts, may_be_bare, strict=True)
        )
        + end
    )


def mysql_outfile_line(fields: Row) -> str:
    r"""Return a row of `SELECT ... INTO OUTFILE`: \N is NULL; the escape, tab, line end and zero byte are escaped."""
    special = {"\\": "\\\\", "\t": "\\\t", "\n": "\\\n", "\0": "\\0"}
    return "\t".join(r"\N" if f is None else "".join(special.get(c, c) for c in f) for f in fields) + "\n"


def mysql_batch_line(fields: Row) -> str:
    r"""Return a row of `mysql --batch`: the word NULL, and letters after the backslash."""
    special = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\0": "\\0"}
    return "\t".join("NULL" if f is None else "".join(special.get(c, c) for c in f) for f in fields) + "\n"


def postgres_copy_line(fields: Row) -> str:
    r"""Return a row of Postgres `COPY ... TO` in its text format."""
    special = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"}
    return "\t".join(r"\N" if f is None else "".join(special.get(c, c) for c in f) for f in fields) + "\n"
