"""How MM-Vet, LLaVA-Bench, MMHal-Bench and SHR use their judge: the question, the reading of the verdict, the metrics.

The instructions are texts in `conf/evaluation/`, in our own words after each benchmark's description; a published number was made
with the benchmark's own text and a certain version of GPT-4, so numbers of different judges or texts are not to be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from parallax.evaluation.accuracy import plain_text
from parallax.evaluation.files.reading import fill
from parallax.evaluation.judged.client import JudgeClient, JudgePrompt
from parallax.evaluation.suites import Scores, Suite, prefixed
from parallax.records import Sample
from parallax.settings.ranges import AnyText, Count


class Grading(Protocol):
    """How one benchmark uses its judge. All three are pure functions."""

    def ask(self, sample: Sample, answer: str) -> JudgePrompt:
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
        max_new_tokens: Count,
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


@dataclass(frozen=True)
class MmVet:
    """MM-Vet (Yu et al., 2023): a grade from 0 to 1 per answer; the total and each capability are means of grades.

    Args:
        instructions: with {question}, {truth} and {answer}.
    """

    instructions: str

    def ask(self, sample: Sample, answer: str) -> JudgePrompt:
        truth = str(sample.answer).replace("<AND>", " AND ").replace("<OR>", " OR ")
        parts = {"question": sample.question, "truth": truth, "answer": plain_text(answer)}
        return JudgePrompt(fill(self.instructions, **parts), lambda text: number_between(text, 0, 1))

    def scores(self, sample: Sample, value: float) -> Scores:
        abilities = {f"mmvet_total:{name}": (value, 1.0) for name in sample.attributes["capability"]}
        return {"mmvet_total": (value, 1.0), **abilities}


@dataclass(frozen=True)
class LlavaBench:
    """LLaVA-Bench in the wild (Liu et al., 2023): two grades from 1 to 10, the reference's and the model's; their ratio counts.

    Args:
        instructions: with {context}, {question}, {reference} and {answer}; the verdict begins with two numbers.
    """

    instructions: str

    def ask(self, sample: Sample, answer: str) -> JudgePrompt:
        about = sample.attributes
        parts = {
            "context": about["context"],
            "question": about["text"],
            "reference": about["reference"],
            "answer": plain_text(answer),
        }
        return JudgePrompt(fill(self.instructions, **parts), two_grades)

    def scores(self, sample: Sample, value: tuple[float, float]) -> Scores:
        reference, model = value
        return {
            "llava_bench_relative": (model, reference),
            f"llava_bench_relative:{sample.kind}": (model, reference),
        }


@dataclass(frozen=True)
class MmHal:
    """MMHal-Bench (Sun et al., 2023): a rating from 0 to 6; below 3 the answer hallucinates.

    Args:
        instructions: with {content}, {question}, {truth} and {answer}; the verdict holds `Rating: <n>`.
    """

    instructions: str

    def ask(self, sample: Sample, answer: str) -> JudgePrompt:
        parts = {
            "content": str(sample.attributes["content"]),
            "question": sample.question,
            "truth": str(sample.answer),
            "answer": plain_text(answer),
        }
        return JudgePrompt(fill(self.instructions, **parts), rating)

    def scores(self, sample: Sample, value: int) -> Scores:
        return {
            "mmhal_score": (float(value), 1.0),
            f"mmhal_score:{sample.kind}": (float(value), 1.0),
            "mmhal_hallucination_rate": (float(value < 3), 1.0),
        }


@dataclass(frozen=True)
class SentenceHallucination:
    """SHR (Zhao et al., 2023, HA-DPO): the share of a description's sentences that the judge finds to be hallucinated.

    Sentences the judge cannot decide on are neither above nor below the line.

    Args:
        instructions: with {facts} and {sentences}, which come numbered; the verdict has a line `<number>: <label>` for each.
    """

    instructions: str

    def ask(self, sample: Sample, answer: str) -> JudgePrompt:
        sentences = sentences_of(plain_text(answer))
        numbered = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, start=1))
        facts = "\n".join(sample.attributes["facts"])
        return JudgePrompt(
            fill(self.instructions, facts=facts, sentences=numbered), lambda text: labels(text, len(sentences))
        )

    def scores(self, sample: Sample, value: list[str]) -> Scores:
        wrong = sum(label == "hallucination" for label in value)
        return {"shr": (wrong, sum(label != "cannot judge" for label in value))}


def number_between(text: str, low: float, high: float) -> float | None:
    """The first number of the text, if it lies in the range."""
    found = re.search(r"-?\d+(?:\.\d+)?|-?\.\d+", text)
    return float(found[0]) if found and low <= float(found[0]) <= high else None


def two_grades(text: str) -> tuple[float, float] | None:
    """Two numbers from 1 to 10 on the first line."""
    lines = text.strip().splitlines()
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", lines[0])] if lines else []
    return (numbers[0], numbers[1]) if len(numbers) == 2 and all(1 <= n <= 10 for n in numbers) else None


def rating(text: str) -> int | None:
    """The one number from 0 to 6 after `rating`."""
    found = {int(number) for number in re.findall(r"(?i)rating\W{0,5}(\d+)(?!\d|\.\d)", text)}
    return found.pop() if len(found) == 1 and next(iter(found)) in range(7) else None


def labels(text: str, count: int) -> list[str] | None:
    """`hallucination`, `correct` or `cannot judge` for each of `count` sentences; None unless each has exactly one."""
    if count == 0:
        return []
    found: dict[int, str] = {}
    for number, label in re.findall(r"(?im)^\W*(\d+)\W+(hallucination|hallucinated|correct|cannot judge)\b", text):
        place = int(number)
        if place in found or not 1 <= place <= count:
            return None
        found[place] = "hallucination" if label.lower().startswith("halluc") else label.lower()
    return [found[place] for place in range(1, count + 1)] if len(found) == count else None


def sentences_of(text: str) -> list[str]:
    """Sentences of a description: split after a full stop, an exclamation or a question mark, and at line breaks.

    One that an earlier sentence already contains is left out, as SHR does, so that a model caught in a loop is counted once.
    """
    kept: list[str] = []
    for piece in re.split(r"(?<=[.!?])\s+|\n+", text):
        sentence = piece.strip()
        if re.search(r"\w", sentence) and not any(sentence.rstrip(".!? ") in earlier for earlier in kept):
            kept.append(sentence)
    return kept
