"""Objects that an answer names are looked up in the picture: ViGoR's automatic reward (arXiv 2402.06118); it needs no labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from parallax.preference.judge import UNSCORED, Judge, Judgement
from parallax.preference.proposer import Generate
from parallax.records import Candidate, Sample
from parallax.settings.ranges import NotNegative

if TYPE_CHECKING:
    import torch

    from parallax.models.policy import Policy


class Finder(Protocol):
    """Says whether objects are in pictures; `parallax.models.object_detector.ObjectDetector` does."""

    def found(self, asked: Sequence[tuple[Sample, str]], device: torch.device) -> list[bool | None]:
        """Whether each named object is in its sample's picture, in order; None where that is not known."""
        ...

    def digest(self) -> str:
        """Names all that decides it."""
        ...


class KnownObjects:
    """The truth, for data that say which objects are in their pictures."""

    def found(self, asked: Sequence[tuple[Sample, str]], device: torch.device) -> list[bool | None]:
        return [name in sample.objects if sample.objects is not None else None for sample, name in asked]

    def digest(self) -> str:
        return "known"


class Detector(Judge):
    """bonus · objects found - objects not found, each counted once; an answer that names none has no score.

    Args:
        finder: who looks.
        extract: names the objects of a text, singular, in small letters.
        bonus: points for each object that is there; one that is not costs 1.
    """

    scores_leaves: ClassVar[bool] = False  # of sentence trees

    name = "detector"

    def __init__(self, finder: Finder, extract: Callable[[str], list[str]], bonus: NotNegative) -> None:
        self.finder, self.extract, self.bonus = finder, extract, bonus

    def settings(self) -> dict[str, Any]:
        extract = getattr(self.extract, "__qualname__", type(self.extract).__name__)
        return {"judge": self.name, "finder": self.finder.digest(), "extract": extract, "bonus": self.bonus}

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> list[Judgement]:
        """Scores, with what was looked for beside each answer: `{"claims": [{claim, holds}, …]}`."""
        named = [[list(dict.fromkeys(self.extract(answer.text))) for answer in group] for group in candidates]
        asked = [
            (sample, name)
            for sample, group in zip(samples, named, strict=True)
            for name in dict.fromkeys(n for names in group for n in names)
        ]
        there = {
            (sample.id, name): holds
            for (sample, name), holds in zip(asked, self.finder.found(asked, policy.device), strict=True)
        }
        return [
            self._judgement([[(name, there[sample.id, name]) for name in names] for names in group])
            for sample, group in zip(samples, named, strict=True)
        ]

    def words(self, counts: Mapping[str, int]) -> str:
        """One line about a build."""
        return (
            f"detector: {counts.get('found', 0):,} of {counts.get('named', 0):,} named objects found, "
            f"{counts.get('unknown', 0):,} not known"
        )

    def _judgement(self, group: Sequence[Sequence[tuple[str, bool | None]]]) -> Judgement:
        scores, counts = [], Counter[str]()
        for looked in group:
            yes, no = (sum(holds is side for _, holds in looked) for side in (True, False))
            scores.append(self.bonus * yes - no if yes + no else UNSCORED)
            counts.update(named=len(looked), found=yes, unknown=len(looked) - yes - no)
        each = tuple({"claims": [{"claim": name, "holds": holds} for name, holds in looked]} for looked in group)
        return Judgement(tuple(scores), each=each, counts=counts)
