"""Text of others (rows, answers, servers, file names) on its way to where people and programs read it.

The one border: what leaves for a terminal goes through `say` or the console of `terminal`, for CSV through `spreadsheet_cell`,
for Markdown through `markdown`, `code_span` and `front_matter`. Pages escape in their templates (`reports/pages.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable
    from rich.segment import Segment

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)  # what moves the cursor, turns the direction of writing, hides itself, or is no character
_LONGEST = 200  # characters of a foreign text within a sentence
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$&#]|(?<![^\W_])_|_(?![^\W_])")  # what Markdown reads as its own within a line
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


def say(text: object, file: TextIO | None = None) -> None:
    """A line on standard output, or on `file`, at once and printable."""
    print(printable(text), file=file, flush=True)


def terminal(**options: Any) -> Console:
    """A console of rich whose every text is printable, and whose lines are whole where nobody's window cuts them.

    `options` are rich's.
    """
    from rich.console import Console, RenderHook

    class Border(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [_Printable(renderable) for renderable in renderables]

    console = Console(**options)
    console.soft_wrap = not console.is_terminal
    console.push_render_hook(Border())
    return console


class _Printable:
    """What rich would show, with control characters that are not its own written out."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def markdown(text: object) -> str:
    """`text` within a line, a heading or a cell of Markdown, as text."""
    return _MARKDOWN.sub(lambda found: "\\" + found.group(), " ".join(printable(text).split()))


def code_span(text: object) -> str:
    """`text` as code within a line of Markdown: between more backticks than it has in a row."""
    line = " ".join(printable(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown whose cells are text."""
    lines = [
        [markdown(cell) for cell in head],
        ["---"] * len(head),
        *([markdown(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def front_matter(content: Mapping[str, object]) -> str:
    """What stands before a Markdown document for programs to read, as YAML: texts stay texts and never become keys."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=10**6)}---"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
