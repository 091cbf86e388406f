"""What a judge noted about a pair and its answers, as lines for a page: claims with questions and verdicts, marks, comparisons.

Notes are plain data of any judge (`Judgement.notes` and `each`). A list of mappings gives a line for each; `holds` or `right` of
a mapping is its mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parallax.records import PreferencePair, Response

MOST = 12  # lines of one answer
MARKS = {True: "✓", False: "✗", None: "?"}
Line = tuple[str, str]  # mark (✓, ✗, ?, or nothing), text


def lines_of(noted: PreferencePair | Response) -> list[Line]:
    """The lines of a pair or of one of its answers, at most so many.

    >>> lines_of(Response("A dog.", provenance={"judge": {"claims": [{"claim": "a dog", "said": "Yes", "holds": True}]}}))
    [('✓', 'a dog · said Yes')]
    """
    held = noted.meta if isinstance(noted, PreferencePair) else noted.provenance
    notes = held.get("judge")
    lines = list(_lines(notes)) if isinstance(notes, Mapping) else []
    more = len(lines) - MOST
    return lines if more <= 0 else [*lines[:MOST], ("", f"and {more} more")]


def _lines(notes: Mapping[str, Any]) -> Iterator[Line]:
    for name, value in notes.items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            yield from (_line(item) for item in value)
        elif isinstance(value, str | int | float) and value != "" and name != "node" and not _is_key(value):
            yield "", f"{_words(name)} {_shown(value)}"


def _line(item: Mapping[str, Any]) -> Line:
    mark = next((MARKS.get(item[name], "") for name in ("holds", "right") if name in item), "")
    first, *rest = [(name, value) for name, value in item.items() if name not in ("holds", "right", "node")] or [
        ("", "")
    ]
    lead = _shown(first[1]) if isinstance(first[1], str) else f"{_words(first[0])} {_shown(first[1])}"
    others = (f"{_words(name)} {_shown(value)}" for name, value in rest if value not in (None, "", [], {}))
    return mark, " · ".join([lead, *others])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_key(value: object) -> bool:
    return isinstance(value, str) and len(value) == 32 and all(digit in "0123456789abcdef" for digit in value)
