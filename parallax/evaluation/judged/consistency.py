"""SeVa's Q- and A-consistency (arXiv 2404.10501, table 5): how well sampled answers fit the question, and the greedy answer.

Every question is answered greedily once and sampled at each temperature; a judge gives 1 to 10 twice per sampled answer. The
paper does not publish its prompt; ours is in `conf/evaluation/consistency.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated

from annotated_types import MinLen

from parallax.evaluation.accuracy import plain_text
from parallax.evaluation.files.reading import fill
from parallax.evaluation.judged.client import JudgeClient, JudgePrompt
from parallax.evaluation.judged.gradings import number_between
from parallax.evaluation.suites import Scores, Suite, prefixed
from parallax.records import Decoding, Sample
from parallax.settings.ranges import AnyText, Count, PositiveTemperature


class ConsistencySuite(Suite):
    """Q-consistency and A-consistency at each temperature, 1 to 10.

    Args:
        samples: any questions.
        judge: who grades.
        temperatures: of the sampled answers, each above 0.
        about_question: what the judge is asked with {question} and {answer}.
        about_answer: what it is asked with {question}, {reference} (the greedy answer) and {answer}.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        judge: JudgeClient,
        temperatures: Annotated[Sequence[PositiveTemperature], MinLen(1)],
        about_question: str,
        about_answer: str,
        name: str,
        max_new_tokens: Count,
        prefix: AnyText = "",
    ) -> None:
        self.judge, self.temperatures = judge, tuple(temperatures)
        self.about_question, self.about_answer = about_question, about_answer
        asked = [
            replace(s, id=f"{s.id}@{t:g}", attributes={**s.attributes, "group": s.id, "temperature": t})
            for s in samples
            for t in (0.0, *self.temperatures)
        ]
        super().__init__(asked, name, max_new_tokens, prefix)

    def decoding_of(self, sample: Sample) -> Decoding:
        """Each sample stands for one question at one temperature."""
        return Decoding(self.max_new_tokens, temperature=float(sample.attributes["temperature"]))

    def score(self, sample: Sample, answer: str) -> Scores:
        return self.score_all([(sample, answer)])[0]

    def score_all(self, answered: Sequence[tuple[Sample, str]]) -> list[Scores]:
        greedy = {s.attributes["group"]: a for s, a in answered if s.attributes["temperature"] == 0}
        asks: list[JudgePrompt] = []
        for sample, answer in answered:
            reference = greedy.get(sample.attributes["group"])
            if sample.attributes["temperature"] > 0 and reference is not None:
                parts = {"question": sample.question, "answer": plain_text(answer)}
                asks.append(JudgePrompt(fill(self.about_question, **parts), _grade))
                asks.append(JudgePrompt(fill(self.about_answer, reference=plain_text(reference), **parts), _grade))
        verdicts = iter(self.judge.verdicts(asks))
        scored: list[Scores] = []
        for sample, _ in answered:
            scores: Scores = {}
            if sample.attributes["temperature"] > 0 and sample.attributes["group"] in greedy:
                for name in ("q_consistency_score", "a_consistency_score"):
                    verdict = next(verdicts)
                    if verdict.failure is None:
                        scores[name] = (verdict.value, 1.0)
                        scores[f"{name}:{sample.attributes['temperature']:g}"] = (verdict.value, 1.0)
                    failed, total = scores.get(f"{self.name}_judge_failures", (0.0, 0.0))
                    scores[f"{self.name}_judge_failures"] = (failed + float(verdict.failure is not None), total + 1.0)
            scored.append(prefixed(scores, self.prefix))
        return scored


def _grade(text: str) -> float | None:
    return number_between(text, 1, 10)
