"""Which words differ between two answers: the reader's eye should land where the model changed its mind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text, blanks included. Joining the spans of one side gives back that side's text exactly."""

    text: str
    differs: bool


def diff_words(left: str, right: str) -> tuple[list[Span], list[Span]]:
    """Both texts as spans; words without a counterpart on the other side are marked. Case and punctuation count."""
    ours, theirs = _pieces(left), _pieces(right)
    matcher = SequenceMatcher(None, ours[::2], theirs[::2], autojunk=False)
    marked_ours, marked_theirs = [True] * len(ours[::2]), [True] * len(theirs[::2])
    for block in matcher.get_matching_blocks():
        marked_ours[block.a : block.a + block.size] = [False] * block.size
        marked_theirs[block.b : block.b + block.size] = [False] * block.size
    return _spans(ours, marked_ours), _spans(theirs, marked_theirs)


def marked_text(spans: Sequence[Span], before: str = "⟦", after: str = "⟧") -> str:
    """Plain text with the differing words between marks, for places that know no colours."""
    return "".join(f"{before}{span.text}{after}" if span.differs else span.text for span in spans)


def _pieces(text: str) -> list[str]:
    """Words and the blanks between them in turn, starting with a word: even positions are words."""
    return re.split(r"(\s+)", text)


def _spans(pieces: Sequence[str], marked: Sequence[bool]) -> list[Span]:
    spans: list[Span] = []
    for position, piece in enumerate(pieces):
        word = position // 2
        if position % 2 == 0:
            differs = marked[word]
        else:  # a blank is marked only between two marked words
            differs = marked[word] and marked[word + 1]
        if not piece:
            continue
        if spans and spans[-1].differs == differs:
            spans[-1] = Span(spans[-1].text + piece, differs)
        else:
            spans.append(Span(piece, differs))
    return spans
