"""Sentences that are no sentences: loops, runs of one character, debris of web pages, letters of a foreign script.

CSR's code takes such branches out of its trees (arXiv 2405.14622, released scoring script); the limits here are its.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Any

from parallax.preference.selector import BestAgainstRest
from parallax.records import Dropped, PreferencePair
from parallax.settings.ranges import Count

SHORTEST = 4  # characters
MOST_REPEATS_OF_A_WORD = 5
_RUN = re.compile(r"(\S)(?: ?\1){10}")  # a character 11 times, spaces allowed between
_SPACES = re.compile(r"(?:&nbsp;\s*){2}")
_SCRIPTS = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "CYRILLIC", "ARABIC", "HEBREW", "THAI", "DEVANAGARI", "GREEK")


def junk_reason(sentence: str, context: str = "") -> str | None:
    """Why a sentence is junk, in a word, or None. Letters of a script that `context` (the question) uses are welcome."""
    text = sentence.strip()
    if len(text) < SHORTEST and not re.fullmatch(r"\w+[.!?]", text):  # `No.` is an answer
        return "short"
    if text.count("\n") > 5:
        return "newlines"
    if _SPACES.search(text):
        return "debris"
    if _RUN.search(text):
        return "run"
    words = re.findall(r"\w+", text.casefold())
    content = [word for word in words if len(word) > 3]  # "a", "the" and "and" repeat in any list
    if any(content.count(word) > MOST_REPEATS_OF_A_WORD for word in set(content)):
        return "loop"
    if _scripts(text) - _scripts(context):
        return "script"
    if any(unicodedata.category(character) in ("So", "Cs", "Co") for character in text):
        return "symbols"
    return None


def _scripts(text: str) -> set[str]:
    names = {
        unicodedata.name(character, "").split(" ")[0]
        for character in set(text)
        if character.isalpha() and ord(character) > 127
    }
    return names & set(_SCRIPTS)


class NoDebris(BestAgainstRest):
    """The best against the rest, but for answers that repeat themselves, are mostly symbols or only yes or no, and pairs whose
    rejected answer is a part of the chosen one.

    Args:
        most_repeats: how often one word may stand in an answer.
        rest: see `BestAgainstRest`.
    """

    def __init__(self, num_negatives: int = 1, *, most_repeats: Count, **rest: Any) -> None:
        super().__init__(num_negatives, **rest)
        self.most_repeats = most_repeats

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "most_repeats": self.most_repeats}

    def _decide(self, pair: PreferencePair) -> PreferencePair | Dropped:
        kept = super()._decide(pair)
        if isinstance(kept, Dropped):
            return kept
        reason = next((why for one in kept.responses if (why := debris(one.text, self.most_repeats))), None)
        if reason is None and any(one.text.lower().strip() in kept.chosen.text.lower() for one in kept.rejected):
            reason = "contains_rejected"
        return kept if reason is None else Dropped(pair.sample_id, pair.source, reason)


def debris(text: str, most_repeats: int = 30) -> str | None:
    """Why a text is debris, in a word, or None. Spaces count as symbols, as in the released code.

    >>> debris("A dog. A cat. A dog."), debris("Yes"), debris("-- ; -- ok"), debris("A dog.")
    ('repeats', 'bare_yes_no', 'symbols', None)
    """
    sentences = [sentence.strip() for sentence in re.split(r"[.!?]", text) if sentence.strip()]
    words = Counter(re.findall(r"\w+", text))
    if len(sentences) != len(set(sentences)) or max(words.values(), default=0) > most_repeats:
        return "repeats"
    if text.strip() in ("Yes", "No"):
        return "bare_yes_no"
    return "symbols" if len(re.findall(r"[A-Za-z0-9]", text)) * 2 < len(text) else None
