"""Suites whose answers a judge grades: what is asked, how the verdict is read, and which metrics it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from parallax.evaluation.judged.client import Ask, JudgeClient
from parallax.evaluation.suites import Scores, Suite, prefixed
from parallax.records import Sample
from parallax.settings.ranges import AnyText, Count


class Grading(Protocol):
    """How one benchmark uses its judge. All three are pure functions."""

    def ask(self, sample: Sample, answer: str) -> Ask:
        """The question to the judge about this answer."""
        ...

    def scores(self, sample: Sample, value: object) -> Mapping[str, tuple[float, float]]:
        """What a verdict adds to the metrics."""
        ...


class JudgedSuite(Suite):
    """Questions whose answers are graded by a judge.

    An answer without a verdict is in no metric but `<name>_judge_failures`, the share of answers that could not be graded.

    Args:
        samples: with what the protocol needs; readers in `parallax.evaluation.files` make them.
        judge: who grades.
        protocol: what the judge is asked and how it is read.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        judge: JudgeClient,
        protocol: Grading,
        name: str,
        max_new_tokens: Count = 512,
        prefix: AnyText = "",
    ) -> None:
        super().__init__(samples, name, max_new_tokens, prefix)
        self.judge, self.protocol = judge, protocol

    def score(self, sample: Sample, answer: str) -> Scores:
        return self.score_all([(sample, answer)])[0]

    def score_all(self, answered: Sequence[tuple[Sample, str]]) -> list[Scores]:
        verdicts = self.judge.verdicts([self.protocol.ask(sample, answer) for sample, answer in answered])
        scored = []
        for (sample, _), verdict in zip(answered, verdicts, strict=True):
            failed = verdict.failure is not None
            scores: Scores = {} if failed else dict(self.protocol.scores(sample, verdict.value))
            scores[f"{self.name}_judge_failures"] = (float(failed), 1.0)
            scored.append(prefixed(scores, self.prefix))
        return scored
