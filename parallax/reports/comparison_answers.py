"""What the runs of a comparison said to the same questions: equal answers together, differing words marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallax.evaluation.evaluation import EvaluationItem
from parallax.reports.comparison_numbers import ComparedRun
from parallax.reports.metric_names import direction
from parallax.reports.pairs_table import evenly
from parallax.reports.worddiff import diff_words

BASE = -1  # stands for the model before training among the numbers of runs


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and who said what. `answers` maps a run's number (or BASE) to its answer."""

    item: EvaluationItem
    answers: Mapping[int, EvaluationItem]

    @property
    def texts(self) -> list[str]:
        """The distinct answers, the base model's first, then the most frequent."""
        said = [item.answer for item in self.answers.values()]
        first = [self.answers[BASE].answer] if BASE in self.answers else []
        return list(dict.fromkeys([*first, *sorted(dict.fromkeys(said), key=lambda text: -said.count(text))]))

    @property
    def disagree(self) -> bool:
        """Whether the runs' answers are worth different amounts."""
        return len({goodness(item) for number, item in self.answers.items() if number != BASE}) > 1


def questions_of(runs: Sequence[ComparedRun]) -> list[Asked]:
    """The questions at least two runs answered, in the order of the first run that has them."""
    given: dict[tuple[str, str], dict[int, EvaluationItem]] = {}
    base: dict[tuple[str, str], EvaluationItem] = {}
    for number, run in enumerate(runs):
        after, before = run.run.evaluation("after"), run.run.evaluation("before")
        kept = after or before
        for item in kept.items if kept is not None else ():
            given.setdefault(item.key, {})[number] = item
        if after is not None and before is not None:
            for item in before.items:
                base.setdefault(item.key, item)
    return [
        Asked(next(iter(said.values())), {**({BASE: base[key]} if key in base else {}), **said})
        for key, said in given.items()
        if len(said) > 1
    ]


def most_telling(questions: Sequence[Asked], limit: int) -> list[Asked]:
    """At most `limit` questions: those where the runs disagree, then those with differing words, of every suite alike."""
    suites: dict[str, list[Asked]] = {}
    for asked in questions:
        suites.setdefault(asked.item.suite, []).append(asked)
    chosen: list[Asked] = []
    for place, own in enumerate(suites.values()):
        room = (limit - len(chosen)) // (len(suites) - place)
        telling = [asked for asked in own if asked.disagree]
        differing = [asked for asked in own if not asked.disagree and len(asked.texts) > 1]
        picked = evenly(telling, room)
        chosen += picked + evenly(differing, room - len(picked))
    return chosen


def as_data(asked: Asked) -> dict[str, Any]:
    """One question for the page: each distinct answer as spans against the first, with the runs that gave it."""
    first = asked.texts[0]
    groups = []
    for text in asked.texts:
        spans = diff_words(first, text)[1] if text != first else diff_words(text, _second(asked, first))[0]
        said_by = [number for number, item in asked.answers.items() if item.answer == text]
        worth = asked.answers[said_by[0]]
        groups.append({
            "runs": said_by, "spans": [[span.text, int(span.differs)] for span in spans], "score": score_words(worth),
            "good": goodness(worth),
        })  # fmt: skip
    item = asked.item
    return {"suite": item.suite, "kind": item.kind, "question": item.question, "truth": item.truth, "sample": item.sample_id,
            "disagree": asked.disagree, "groups": groups}  # fmt: skip


def goodness(item: EvaluationItem) -> float:
    """How good an answer is by its suite's first metric: a share, more is better."""
    name = next(iter(item.scores), None)
    if name is None or not item.scores[name][1]:
        return 0.0
    return direction(name) * item.scores[name][0] / item.scores[name][1]


def _second(asked: Asked, first: str) -> str:
    return next((text for text in asked.texts if text != first), first)


def score_words(item: EvaluationItem) -> str:
    name = next(iter(item.scores), None)
    if name is None:
        return ""
    above, below = item.scores[name]
    if below == 1 and direction(name) > 0:
        return "right" if above else "wrong"
    return f"{name} {above:g} of {below:g}"
