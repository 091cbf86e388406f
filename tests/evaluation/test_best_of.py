"""Best of N: who is asked what, and that the judge's choice is what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.shapes.language import mentioned_objects
from datamodules.shapes.source import ShapesSource
from parallax.evaluation.agreement import BestOf
from parallax.evaluation.live import evaluate
from parallax.evaluation.suites import ChairSuite
from parallax.preference.judge import Judge, Judgement
from parallax.preference.judges import Claims, Detector
from parallax.preference.judges.detector import KnownObjects
from parallax.preference.proposer import Unanswerable
from parallax.records import Candidate, Sample
from tests.parts import part
from tests.typed import load_policy

SCENES = list(ShapesSource("eval_habit_free", 6))


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_policy({"path": "assets/tiny_llava"}, {"r": 4}, device="cpu", seed=0)


def measured(policy: Any, best: BestOf | None, cache: Path | None = None) -> Any:
    suite = ChairSuite(SCENES, mentioned_objects, name="chair", max_new_tokens=40)
    return evaluate(policy, [suite], best=best, bootstrap=0, cache_dir=cache)


class Picks(Judge):
    """Prefers the answer at a place; leaves some samples aside, and cannot judge others."""

    name = "picks"

    def __init__(self, place: int, unfit: str = "", reasoned: str = "") -> None:
        self.place, self.unfit, self.reasoned = place, unfit, reasoned
        self.seen: list[list[str]] = []

    def judge(self, policy: Any, samples: Sequence[Sample], candidates: Any, *, seed: int, generate: Any) -> Any:
        if self.unfit in [sample.id for sample in samples]:
            raise Unanswerable({self.unfit: "image cannot be read"})
        self.seen = [[candidate.text for candidate in group] for group in candidates]
        return [
            Judgement(reason="tie") if sample.id == self.reasoned else self._scores(group)
            for sample, group in zip(samples, candidates, strict=True)
        ]

    def _scores(self, group: Sequence[Candidate]) -> list[float]:
        return [float(place == self.place) for place in range(len(group))]


def test_the_judges_choice_is_measured_and_the_usual_answer_where_it_has_none(policy: Any) -> None:
    usual = [item.answer for item in measured(policy, None).items]
    judge = Picks(2, unfit=SCENES[1].id, reasoned=SCENES[2].id)
    found = measured(policy, BestOf(3, judge, temperature=1.5))
    expected = [group[2] for group in judge.seen]
    assert [group[0] for group in judge.seen] == [usual[0], *usual[2:]] and all(len(set(g)) > 1 for g in judge.seen)
    answers = [item.answer for item in found.items]
    assert answers == [expected[0], usual[1], usual[2], *expected[2:]]
    assert found.meta["best_of"] == {"n": 3, "temperature": 1.5, "judge": "picks"}
    assert [item.answer for item in measured(policy, BestOf(3, Picks(-1))).items] == usual  # all alike: the usual one


def test_the_best_of_more_by_the_truth_is_truer_and_everything_is_found_again(policy: Any, tmp_path: Path) -> None:
    by_truth = BestOf(4, Detector(KnownObjects(), mentioned_objects, bonus=0.0), temperature=1.0)
    before, after = measured(policy, None, tmp_path), measured(policy, by_truth, tmp_path)
    assert after.metrics["chair_i"].value < before.metrics["chair_i"].value
    by_claims = BestOf(4, part(Claims, "claims_short", max_new_tokens=4), temperature=1.0)
    first = measured(policy, by_claims, tmp_path)
    assert first.metrics["chair_i"].value <= before.metrics["chair_i"].value
    rows = policy.last_generation
    again = measured(policy, by_claims, tmp_path)
    assert [i.answer for i in again.items] == [i.answer for i in first.items] and policy.last_generation is rows
