"""Right or wrong: an answer against the data's own, the filter of ViReP (arXiv 2404.04627) and of MPO's pairs (2411.10442)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from parallax.preference.judge import Judge, Judgement
from parallax.preference.proposer import Generate
from parallax.records import Candidate, Sample

if TYPE_CHECKING:
    from parallax.models.policy import Policy

Match = Literal["exact", "contains", "number", "letter"]
_LETTER = r"(?i:answer|option|choice)\W{0,4}(?:(?i:is|would be)\W{0,4})?([A-Z])\b(?!')|^\W{0,3}([A-Z])\b(?!')"


def read(match: Match, text: str) -> str | None:
    """What an answer says: its words (exact, contains), its last number, or the letter of an option; None for nothing."""
    if match == "number":
        numbers = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text))
        return f"{float(numbers[-1]):g}" if numbers else None
    if match == "letter":
        letters = [found[1] or found[2] for found in re.finditer(_LETTER, text.strip())]
        return letters[-1] if letters else None
    return " ".join(re.findall(r"\w+(?:[.'’]\w+)*|[^\w\s.,;:!?'’]", text.casefold())) or None


class Verifier(Judge):
    """1 for a right answer, 0 for any other, those that cannot be read among them.

    Samples without an answer, or whose answer cannot be read so, are dropped as `no_ground_truth`.

    Args:
        match: `exact`: the same words, whatever case and punctuation. `contains`: the true answer's words stand in it, one after
            another. `number`: its last number is the true one's. `letter`: it names the same option.
        same: (kind of question, answer, true answer) → whether they say the same; decides in place of `match`.
    """

    scores_leaves: ClassVar[bool] = False  # of sentence trees

    name = "verifier"

    def __init__(self, match: Match, same: Callable[[str, str, str], bool] | None = None) -> None:
        self.match, self.same = match, same

    def settings(self) -> dict[str, Any]:
        same = f"{self.same.__module__}.{self.same.__qualname__}" if self.same is not None else None
        return {"judge": self.name, "match": self.match if same is None else same}

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> list[Judgement]:
        """Scores 1.0 or 0.0, or the reason `no_ground_truth`."""
        return [self._judgement(sample, group) for sample, group in zip(samples, candidates, strict=True)]

    def words(self, counts: Mapping[str, int]) -> str:
        """One line about a build: how much there was to learn from."""
        samples = max(1, counts.get("samples", 0))
        none, every = (counts.get(name, 0) / samples for name in ("none_right", "all_right"))
        return (
            f"verifier: {counts.get('right', 0):,} of {counts.get('answers', 0):,} answers right; none right in {none:.0%} "
            f"and all in {every:.0%} of {samples:,} samples"
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _judgement(self, sample: Sample, group: Sequence[Candidate]) -> Judgement:
        truth = (sample.answer or "").strip()
        if not truth or (self.same is None and read(self.match, truth) is None):
            return Judgement(reason="no_ground_truth", detail=truth)
        right = [self._is_right(sample, candidate.text, truth) for candidate in group]
        counts = {
            "samples": 1,
            "answers": len(right),
            "right": sum(right),
            "none_right": int(not any(right)),
            "all_right": int(all(right)),
        }
        return Judgement(tuple(float(r) for r in right), notes={"truth": truth}, counts=counts)

    def _is_right(self, sample: Sample, answer: str, truth: str) -> bool:
        if self.same is not None:
            return bool(self.same(sample.kind, answer, truth))
        said, true = read(self.match, answer), read(self.match, truth)
        if self.match == "contains" and said is not None:
            return f" {true} " in f" {said} "
        return said is not None and said == true
