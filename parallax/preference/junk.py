"""Sentences that are no sentences: loops, runs of one character, debris of web pages, letters of a foreign script.

CSR's code takes such branches out of its trees (arXiv 2405.14622, released scoring script); the limits here are its.
"""

from __future__ import annotations

import re
import unicodedata

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
