"""Reads a verdict out of what a judging model said: which of two answers is better.

A verdict names an answer ("response 1", "the second one", "2 is better"). What is said about the first man of the picture, about
1 cat or about a tie that somebody wears is none.

What counts, from the strongest to the weakest: a mark such as `[[1]]`; a labelled verdict such as `Verdict: 2`; a sentence that
compares (`response 1 is better`, `both are equally good`); a bare `2`. Of several of one kind the last counts, since a model that
thinks aloud decides at the end. SIMA's code takes only the exact `[[1]]` and `[[2]]` (arXiv 2405.15973).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

Verdict = Literal["first", "second", "tie", "unreadable"]

_ONE, _TWO = ("1", "one", "first", "1st", "a", "former"), ("2", "two", "second", "2nd", "b", "latter")
_NUMBER = r"(?:1st|2nd|1|2|one|two|first|second)"
_NOUN = r"(?:responses?|answers?|options?|candidates?|assistants?|repl(?:y|ies)|descriptions?|outputs?|choices?)"
# What follows a bare number, ordinal or `a` that stands for an answer: the end, a stop, or a word that goes on about it.
_ALONE = (
    r"(?=[\)\]\"'*]{0,4}\s{0,2}(?:$|[.,;:!?\n\-–—)\]]"
    r"|(?:is|was|isn't|wasn't|are|has|had|does|do|did|will|would|should|must|seems|looks|appears|wins|won|loses|lost|gives|provides"
    r"|describes|contains|captures|mentions|fits|matches|clearly|slightly|definitely|much|not|to"
    r"|be|as|over|than|because|since|for|due|with|by|and|or|here|overall|instead)\b))"
)
_SUBJECT = (
    rf"(?:{_NOUN}\s{{0,2}}(?:number|no\.?|nr\.?|\#)?\s{{0,2}}[\(\[\"'*]{{0,4}}(?P<numbered>{_NUMBER}|b|a{_ALONE})\b[\)\]\"'*]{{0,4}}"
    rf"|(?:the\s)?\b(?P<ordinal>first|second|1st|2nd|former|latter)\b(?:\s(?:one|{_NOUN})\b|{_ALONE})"
    rf"|(?<![\w.,\[])[\(\[\"'*#]{{0,4}}(?P<bare>1|2)\b(?![.,]\d){_ALONE}[\)\]\"'*]{{0,4}})"
)
_BETTER = (
    r"(?:better|best|superior|prefer(?:red|able)|stronger|wins?|won|winner|more\s(?:accurate|faithful|correct|precise|truthful|aligned"
    r"|factual|reliable|helpful|relevant|detailed)|fewer\s(?:errors|mistakes|hallucinations)"
    r"|closer\sto\s(?:the\s)?(?:image|picture|photo|scene|truth|facts|reference|ground)|outperforms|surpasses|beats)"
)
_WORSE = (
    r"(?:worse|worst|inferior|weaker|loses|lost|less\s(?:accurate|faithful|correct|precise|truthful|aligned|factual|reliable|helpful"
    r"|relevant|detailed)|not\sas\s(?:good|accurate|faithful|correct)|more\s(?:errors|mistakes|hallucinations))"
)
_NOT = r"(?:\bnot\b|n't\b|\bnever\b|\bneither\b|\bnor\b|\bno\b|\bhardly\b)"
# What may come after `better` where its subject is a bare `1` or `the second`: "better dressed" and "better runner" do not.
_OF_AN_ANSWER = re.compile(
    rf"[\"'*)\]]{{0,4}}\s?(?:$|[^\w\s(\[]|\s*\n|[(\[]|(?:{_NOUN}|one|than|because|since|as|in|at|for|with|on|due|and|but|or|so|here|overall|to"
    r"|of|by|is|was|fit|match|job|account|summary|caption|text|explanation|version|describes?|described|captures?|fits|matches|reflects"
    r"|answers|represents|conveys|aligned|grounded|supported|suited|written|worded|structured|when|if|while|though|although|given"
    r"|between)\b)"
)
# What may stand right before a bare `1`: "player 2", "floor 1" and "number 1" are things of the picture.
_BEFORE_BARE = re.compile(
    r"(?:^|[^\w\s]|\b(?:think|thought|believe|say|find|feel|that|so|and|but|or|while|because|since|is|was|overall|thus|therefore|hence"
    r"|choose|chose|pick|select|prefer|favou?r|with|for|of|than|though|although|whereas|clearly|both|between|then|the|reasons?))\s{0,2}$"
)
_OTHER_SUBJECT = re.compile(
    rf"\b{_NOUN}\s{{0,2}}(?:{_NUMBER}|a|b)\b|\bthan\b|\bthe\s(?:first|second|1st|2nd|former|latter)\b"
)
_TIE_WORDS = (
    r"(?:tie[ds]?|draw|equal(?:ly)?|same|no\s(?:clear\s)?(?:difference|winner)|indistinguishable|neither|none|either|both|equivalent"
    r"|comparable|cannot\s(?:decide|tell|say)|can't\s(?:decide|tell|say)|undecided)"
)
_TIE = re.compile(
    r"\b(?:tie[ds]?|draw|equally|(?:are|is|as|of)\sequal|same\s(?:quality|level)|equivalent|comparable|indistinguishable"
    r"|no\s(?:clear\s)?(?:difference|winner)|neither|both\s(?:are|responses|answers|options)"
    r"|(?:cannot|can't|can\snot)\s(?:decide|tell|say)|undecided)\b"
)
# What makes a word such as `tie`, `both are` or `of equal` one about the answers and not about the picture.
_ABOUT_ANSWERS = re.compile(
    rf"\b{_NOUN}\b|\b(?:quality|winner|verdict|undecided|indistinguishable|better|worse|preference)\b"
    r"|\bequally\s(?:good|bad|accurate|correct|faithful|helpful|detailed|wrong|well|poor|valid|relevant|truthful)\b"
    r"|difference\sbetween\s(?:them|the\stwo)\b"
    r"|(?:cannot|can't|can\snot)\s(?:decide|tell|say)(?:\swhich\b|\sbetween\b|\W{0,3}$)"
    r"|^\W{0,4}(?:(?:it|this|that)(?:\sis|'s)\s|i(?:'d|\swould)?\s(?:call|say|declare)\s(?:it\s|this\s)?|so\s|overall\W{0,2}\s?){0,2}"
    r"(?:a\s)?(?:tie[ds]?|draw)\b|\b(?:they|both|these|the\stwo)\s(?:are|is)\s(?:\w+\s)?"
    r"(?:equal|equally|equivalent|comparable|tied|the\ssame)\s{0,2}\W{0,3}$"
    r"|^\W{0,4}(?:neither|both)(?:\s(?:is|are)(?:\s(?:good|fine|bad|wrong|right|correct|accurate))?)?\W{0,3}$"
)
_MARK = re.compile(r"\[\s{0,4}\[([^\[\]]{0,40})\]\s{0,4}\]")
_SINGLE_MARK = re.compile(r"\[\s{0,4}(1|2|one|two)\s{0,4}\]")
_LABEL = re.compile(
    r"\b(?:final\s|overall\s|my\s|the\s)?(?:verdict|decision|answer|choice|winner|judge?ment|preference|conclusion|result|rating"
    r"|better|best)\b(?:\s(?:one|response|answer|option))?\s{0,3}(?:is\s{0,2}:?|was|:|=|->|→|[-–—])\s{0,3}"
    rf"(?:the\s)?(?P<noun>{_NOUN}\s)?(?:number\s|no\.?\s|\#)?[\(\[\"'*\s]{{0,5}}"
    rf"(?P<said>{_NUMBER}|a|b|former|latter|{_TIE_WORDS})\b(?![.,]\d)(?P<named>\s(?:one|{_NOUN})\b)?(?P<alone>{_ALONE})?"
)
_COMPARES = re.compile(rf"{_SUBJECT}(?P<between>[^.;\n]{{0,60}}?)\b(?P<word>{_BETTER}|{_WORSE})\b")
_NAMES = re.compile(
    rf"(?P<word>{_BETTER}|{_WORSE})(?:\s(?:one|{_NOUN}))?\s{{0,2}}(?:is|was|would\sbe|:|=)\s{{0,2}}{_SUBJECT}"
)
_CHOOSES = re.compile(
    r"(?P<not>(?:not|n't|never)\s)?\b(?:prefer|choose|chose|pick|select|favou?r|go\swith|vote\sfor|side\swith|opt\sfor)\b"
    rf"(?P<between>[^.;\n]{{0,20}}?){_SUBJECT}"
)
_BARE = re.compile(
    rf"(?:the\s)?(?:{_NOUN}\s)?(?:number\s|no\.?\s|\#)?(?P<said>{_NUMBER}|a|b|{_TIE_WORDS})(?:\s(?:one|{_NOUN}))?"
)
_ODD = str.maketrans({"【": "[", "】": "]", "⟦": "[[", "⟧": "]]", "〔": "[", "〕": "]", "「": "[", "」": "]", "’": "'", "‘": "'",
                      "“": '"', "”": '"', "：": ":", "\u200b": "", "\ufeff": ""})  # fmt: skip
LONGEST = 20_000  # characters looked at, from the end: a verdict comes last


def read_verdict(text: str) -> Verdict:
    """`first`, `second`, `tie`, or `unreadable`. Never raises, whatever the text."""
    plain = unicodedata.normalize("NFKC", text[-LONGEST:].translate(_ODD)).casefold()
    plain = re.sub(r"[ \t\r\f\v\u00a0]+", " ", plain)
    for reader in (_marks, _labels, _sentences):
        found = reader(plain)
        if found is not None:
            return found
    bare = _BARE.fullmatch(plain.strip(" \n.!*_()\"'#:-"))
    return _meaning(bare["said"]) if bare else "unreadable"


def read_yes_no(text: str) -> bool | None:
    """What the first sentence says: by its first word, else if exactly one of yes and no is among its words; None for neither."""
    words = re.findall(r"[a-z']+", re.split(r"[.!?\n]", text.lower())[0])
    if words[:1] in (["yes"], ["no"]):
        return words[0] == "yes"
    said = {word for word in ("yes", "no") if word in words}
    return said == {"yes"} if len(said) == 1 else None


def _meaning(word: str) -> Verdict:
    word = word.strip()
    return "first" if word in _ONE else "second" if word in _TWO else "tie"


def _marks(text: str) -> Verdict | None:
    """The last `[[…]]` that says something; a single bracket counts where there is no double one."""
    readable = [said for mark in _MARK.finditer(text) if (said := _inside(mark[1])) is not None]
    if readable:
        return readable[-1]
    single = _SINGLE_MARK.findall(text)
    return _meaning(single[-1]) if single else None


def _inside(mark: str) -> Verdict | None:
    word = mark.strip(" \n.\"'*#:()")
    found = _BARE.fullmatch(word)
    if found:
        return _meaning(found["said"])
    return "tie" if word in ("c", "0", "1=2", "1/2", "1 and 2", "1, 2", "1 & 2") else None


def _labels(text: str) -> Verdict | None:
    found: Verdict | None = None
    for label in _LABEL.finditer(text):
        if label["alone"] is None and not (label["named"] or (label["noun"] and label["said"] != "a")):
            continue  # "the result: 1 cat", "my answer is a red bus"
        rest = text[label.end() : label.end() + 30]
        if re.match(rf"\s(?:is|was|seems|has|fits)\b|.{{0,20}}\b(?:{_BETTER}|{_WORSE})\b", rest) and "than" not in rest:
            continue  # "my conclusion: answer 1 is worse" is a sentence that compares
        found = _meaning(label["said"])
    return found


def _sentences(text: str) -> Verdict | None:
    """The last comparison or tie that is stated, negations taken into account."""
    events: list[tuple[int, Verdict]] = []
    for found in _comparisons(text):
        between, word = found["between"], found["word"]
        named, better = _named(found), re.fullmatch(_BETTER, word) is not None
        if re.search(_NOT, between):
            if not re.search(r"\bthe\b", between[-6:]):
                continue  # "1 is not better" leaves open who is; "1 is not the better one" does not
            better = not better
        events.append((found.end(), _side(named, better)))
    for found in _NAMES.finditer(text):
        better = re.fullmatch(_BETTER, found["word"]) is not None
        events.append((found.end(), _side(_named(found), better)))
    for found in _CHOOSES.finditer(text):
        if not found["not"] and not re.search(_NOT, found["between"]):
            events.append((found.end(), _side(_named(found), True)))
    for found in _TIE.finditer(text):
        before = text[max(0, found.start() - 8) : found.start()]
        if not re.search(rf"{_NOT}\s(?:a\s)?$", before) and _ABOUT_ANSWERS.search(_sentence_around(text, found)):
            events.append((found.end(), "tie"))
    return max(events, key=lambda event: event[0])[1] if events else None


def _comparisons(text: str) -> Iterator[re.Match[str]]:
    """Comparisons, each with the name nearest before it, if that is an answer's."""
    at = 0
    while found := _COMPARES.search(text, at):
        if _OTHER_SUBJECT.search(found["between"]):
            at = found.start() + 1
            continue
        at = found.end()
        of_an_answer = found["numbered"] or re.match(rf"(?:the\s)?\w+\s{_NOUN}\b", found[0])
        if of_an_answer or (
            _OF_AN_ANSWER.match(text, found.end())
            and (not found["bare"] or _BEFORE_BARE.search(text[max(0, found.start() - 16) : found.start()]))
        ):
            yield found


def _sentence_around(text: str, found: re.Match[str]) -> str:
    """The sentence that a match stands in."""
    begin = max(text.rfind(stop, 0, found.start()) for stop in ".!?;\n") + 1
    ends = [end for stop in ".!?;\n" if (end := text.find(stop, found.end())) >= 0]
    return text[begin : min(ends, default=len(text))]


def _named(found: re.Match[str]) -> str:
    return found["numbered"] or found["ordinal"] or found["bare"]


def _side(named: str, better: bool) -> Verdict:
    return "first" if (named in _ONE) == better else "second"
