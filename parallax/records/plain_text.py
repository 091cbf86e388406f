"""Text of others (rows, answers, servers, file names) on its way to where people and programs read it."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)  # what moves the cursor, turns the direction of writing, hides itself, or is no character
_LONGEST = 200  # characters of a foreign text within a sentence
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: object) -> str:
    r"""`text` with control and hidden characters written out (`\x1b`, `\u202e`), so that a terminal shows and does not obey them.

    Line feeds and tabs stay.
    """
    return _CONTROL.sub(lambda found: _written(ord(found.group())), str(text))


def quoted(text: object, longest: int = _LONGEST) -> str:
    """`text` on one line within a sentence: printable, white space joined, cut when long."""
    short = str(text)[: 4 * longest]  # before anything is done with a text of megabytes
    line = " ".join(printable(short).split())
    return line if len(line) <= longest and len(short) == len(str(text)) else line[: longest - 1] + "…"


def without_surrogates(text: str) -> str:
    """`text` as UTF-8 can hold it: half a character (a lone surrogate, as scraped JSON has it) becomes U+FFFD."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def spreadsheet_cell(value: object) -> object:
    """A cell of a CSV file that no spreadsheet takes for a formula: a text that begins like one gets an apostrophe in front.

    Numbers, and texts that are numbers, stay.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _is_number(value):
        return printable(value) if isinstance(value, str) else value
    return "'" + printable(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
