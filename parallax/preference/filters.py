"""Filters: which responses may stand in a pair. Each removal has a short reason, which is counted and shown.

Answers are compared with every run of white space as one space, so that two answers that differ only in line breaks count
as equal. (SeVa's code compares raw strings and deletes line breaks afterwards, which also joins words;
`strip_newlines="delete"` compares as its files end up.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parallax.records import Response
from parallax.settings.part import Part
from parallax.settings.ranges import Count

Newlines = Literal["space", "delete"]

REASONS = {
    "equal": "the rejected answer equals the chosen one",
    "duplicate": "the rejected answer repeats another rejected one",
    "empty": "an answer has no text",
    "truncated": "an answer was cut by the token limit",
    "too_short": "an answer has fewer characters than pairs.min_chars",
    "too_long": "an answer has more characters than pairs.max_chars",
    "small_margin": "the judge's scores lie closer together than pairs.min_margin, or are equal",
    "too_few_negatives": "fewer usable rejected answers are left than pairs.num_negatives",
    "no_candidates": "the proposer brought back, or the judge could score, too little to make a pair",
    "contained": "the chosen answer stands word for word in the rejected one",
    "unbalanced_length": "the chosen answer is shorter by more than the length balance of the whole set allows",
    "tie": "the judge finds no answer better than the other",
    "disagreement": "the judge prefers another answer when the answers change places",
    "unreadable_verdict": "what the judge said holds no verdict",
    "repeats": "an answer repeats a sentence, or a word too often",
    "bare_yes_no": "an answer is yes or no and nothing else",
    "contains_rejected": "the rejected answer is a part of the chosen one",
    "symbols": "more than half of an answer are neither letters nor digits",
    "no_question": "the policy wrote no question about the image",
    "unwanted_question": "its questions hold a word of asker.unwanted",
    "unanswerable": "asked whether the picture answers its question, the policy wrote none",
    "no_ground_truth": "the judge is to compare with a ground truth, and the sample has none",
    "over_source_cap": "its source already gives pairs.max_per_source pairs",
    "over_cap": "there already are pairs.max_pairs pairs",
}


@dataclass(frozen=True, slots=True)
class Filters:
    """What a response must be like.

    Args:
        drop_equal: refuse rejected answers equal to the chosen one, and rejected answers equal to each other.
        drop_empty: refuse answers without text.
        drop_truncated: refuse answers cut by the token limit.
        min_chars, max_chars: bounds on the length in characters, both included; None is unbounded.
        strip_newlines: how line breaks are read in comparisons: as a space, or deleted.
    """

    drop_equal: bool = True
    drop_empty: bool = True
    drop_truncated: bool = False
    min_chars: int | None = None
    max_chars: int | None = None
    strip_newlines: Newlines = "space"

    def __post_init__(self) -> None:
        if self.strip_newlines not in ("space", "delete"):
            raise ValueError(f"strip_newlines is {self.strip_newlines!r}; it can be 'space' or 'delete'")
        if self.min_chars is not None and self.max_chars is not None and self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is larger than max_chars {self.max_chars}; no answer fits")

    def normalise(self, text: str) -> str:
        """The form in which answers are compared."""
        if self.strip_newlines == "delete":
            text = text.replace("\r", "").replace("\n", "")
        return " ".join(text.split())

    def fault(self, response: Response) -> str | None:
        """The reason why a response cannot be used at all, or None."""
        text = response.text.strip()
        if self.drop_empty and not text:
            return "empty"
        if self.drop_truncated and response.provenance.get("finished") is False:
            return "truncated"
        if self.min_chars is not None and len(text) < self.min_chars:
            return "too_short"
        if self.max_chars is not None and len(text) > self.max_chars:
            return "too_long"
        return None

    def usable_rejected(self, chosen: Response, rejected: list[Response]) -> tuple[list[Response], list[str]]:
        """Rejected answers that may stay, in their order, and the reasons of those that may not."""
        seen = {self.normalise(chosen.text)}
        kept: list[Response] = []
        reasons: list[str] = []
        for response in rejected:
            normal = self.normalise(response.text)
            if (fault := self.fault(response)) is not None:
                reasons.append(fault)
            elif self.drop_equal and normal in seen:
                reasons.append("equal" if normal == self.normalise(chosen.text) else "duplicate")
            else:
                seen.add(normal)
                kept.append(response)
        return kept, reasons


@dataclass(frozen=True)
class Keep(Part):
    """The best answers of a sample.

    Args:
        at_least: least score of an answer that is kept; None keeps the best whatever its score.
        per_sample: most answers of one sample. Equal texts count once.
    """

    at_least: float | None = None
    per_sample: Count = 1

    def places(self, texts: Sequence[str], scores: Sequence[float]) -> list[int]:
        """Places of the answers that are kept, the best first. Empty answers and those without a score never are."""
        able = [
            i
            for i, score in enumerate(scores)
            if score >= (float("-inf") if self.at_least is None else self.at_least) and texts[i].strip()
        ]
        distinct: dict[str, int] = {}
        for place in sorted(able, key=lambda i: (-scores[i], i)):
            distinct.setdefault(" ".join(texts[place].split()), place)
        return list(distinct.values())[: self.per_sample]
