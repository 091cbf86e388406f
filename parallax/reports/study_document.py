"""Tables of studies inside a document: each stands between two marks of its own and is replaced when the study is run again."""

from __future__ import annotations

import shutil
from pathlib import Path

from parallax.records.atomic import atomic_write_text


def put_into(document: Path, name: str, table: str, picture: Path | None) -> None:
    """Replace what stands between `<!-- study <name> -->` and `<!-- end <name> -->`.

    Args:
        document: a Markdown file.
        table: Markdown.
        picture: is copied to `images/` beside the document and shown below the table; None shows none.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- study {name} -->", f"<!-- end {name} -->"
    text = document.read_text("utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f"{document} has no place for the study {name}; put the lines {begin} and {end} where it belongs"
        )
    shown = ""
    if picture is not None:
        target = document.parent / "images" / f"{name}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, target)
        shown = f"\n![{name}](images/{target.name})\n"
    before, rest = text.split(begin)
    atomic_write_text(document, f"{before}{begin}\n{table}{shown}{end}{rest.split(end)[1]}")
