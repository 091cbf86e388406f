"""Suites: a set of questions and how one answer is scored. Everything live models are evaluated on is one of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Self

from parallax.evaluation.accuracy import SameAnswer, accuracy_scores, same_text
from parallax.evaluation.coco_words import Counting, chair_counts, chair_scores
from parallax.evaluation.pope import (
    AnswerRule,
    category_weights,
    question_scores,
    read_answer,
    read_label,
    read_strictly,
)
from parallax.records import Decoding, Sample
from parallax.settings.part import Part
from parallax.settings.ranges import AnyText, Count

Scores = dict[str, tuple[float, float]]  # metric name -> (numerator, denominator)


class Suite(Part, ABC):
    """Questions with known truth, and what all suites share: checked samples, a name, a token limit, a prefix of metric names.

    A suite writes `score`, or `score_all` where answers are scored together.

    Args:
        name: of the suite in reports.
        max_new_tokens: token limit of an answer.
        prefix: put before metric names (`coco/` gives `coco/chair_i`), so that several such suites can run together.
    """

    asks_for_descriptions: bool = False  # so that describe-and-respond does not describe twice
    samples: Sequence[Sample]

    def __init__(self, samples: Iterable[Sample], name: str, max_new_tokens: int, prefix: str) -> None:
        self.samples, self.name, self.max_new_tokens, self.prefix = list(samples), name, max_new_tokens, prefix
        if not self.samples:
            raise ValueError(f"suite {name!r} has no samples; give it at least one")
        twice = [one for one, count in Counter(sample.id for sample in self.samples).items() if count > 1]
        if twice:
            raise ValueError(
                f"suite {name!r} uses {len(twice)} sample ids twice, the first is {twice[0]!r}; make them unique"
            )

    @abstractmethod
    def score(self, sample: Sample, answer: str) -> Scores:
        """What this answer adds to each metric: (numerator, denominator). Pure: the same answer gives the same numbers."""

    def score_all(self, answered: Sequence[tuple[Sample, str]]) -> list[Scores]:
        """`score` of each answer, in order."""
        return [self.score(sample, answer) for sample, answer in answered]

    def truth(self, sample: Sample) -> str:
        """The right answer in words, for people who read the report."""
        return sample.answer or ""

    def decoding_of(self, sample: Sample) -> Decoding | None:
        """How this sample's answer is decoded, where the suite asks at temperatures of its own; else as the evaluation does."""
        return None

    def limited(self, limit: int | None) -> Self:
        """The same suite with about the first `limit` samples: the first of each split, where the data has splits.

        Samples that are scored together (`attributes["group"]`) count as one and stay together.
        """
        if limit is None or limit >= len(self.samples):
            return self
        each = -(-limit // len({_category(sample) for sample in self.samples}))
        seen: dict[str, dict[str, None]] = {}
        kept = []
        for sample in self.samples:
            groups = seen.setdefault(_category(sample), {})
            if len(groups) < each or group_of(sample) in groups:
                groups[group_of(sample)] = None
                kept.append(sample)
        smaller = copy(self)
        smaller.samples = kept
        return smaller


class ChairSuite(Suite):
    """CHAIR-i, CHAIR-s and recall of descriptions, on any data whose samples list their objects.

    Args:
        samples: with `objects`; a sample without them is an error, not a sample without objects.
        extract: text → the object names it mentions, in order, repeats kept, under the names used in `objects`.
        counting: see `parallax.evaluation.coco_words.chair_counts`.
    """

    asks_for_descriptions = True

    def __init__(
        self,
        samples: Iterable[Sample],
        extract: Callable[[str], Sequence[str]],
        name: str,
        max_new_tokens: Count,
        counting: Counting = "every_mention",
        prefix: AnyText = "",
    ) -> None:
        super().__init__(samples, name, max_new_tokens, prefix)
        self.extract, self.counting = extract, counting
        _require(self.samples, name, lambda s: s.objects is not None, "a list of the objects in the image (`objects`)")

    def score(self, sample: Sample, answer: str) -> Scores:
        mentioned = self.extract(answer)
        counts = chair_counts(mentioned, sample.objects or (), self.counting, empty=not answer.strip())
        return prefixed(chair_scores(counts), self.prefix)

    def truth(self, sample: Sample) -> str:
        return ", ".join(sample.objects or ())


class AccuracySuite(Suite):
    """Share of right answers, overall and per question kind.

    Args:
        samples: with a ground-truth answer each.
        same: (kind, prediction, truth) → whether they say the same. By default equal text but for case and full stop.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        same: SameAnswer = same_text,
        *,
        name: str,
        max_new_tokens: Count,
        prefix: AnyText = "",
    ) -> None:
        super().__init__(samples, name, max_new_tokens, prefix)
        self.same = same
        _require(self.samples, name, lambda s: s.answer is not None, "a ground-truth answer")

    def score(self, sample: Sample, answer: str) -> Scores:
        return prefixed(accuracy_scores(sample.kind, self.same(sample.kind, answer, self.truth(sample))), self.prefix)


class PopeSuite(Suite):
    """POPE's yes/no questions: accuracy, precision, recall, F1, yes-ratio and parse failures, overall and per split.

    Args:
        samples: whose answer is yes or no; the attribute `category` names the split (random, popular, adversarial).
        max_new_tokens: token limit of an answer. SeVa lets answers run to 512 tokens.
        reading: how answers are read: `published` (no `no` or `not` means yes) or `strict` (see `parallax.evaluation.pope`).

    Overall metrics give each split the same weight, as SeVa's "All" column does.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        name: str,
        max_new_tokens: Count,
        prefix: AnyText = "",
        reading: AnswerRule = "published",
    ) -> None:
        super().__init__(samples, name, max_new_tokens, prefix)
        self.read = read_strictly if reading == "strict" else read_answer
        _require(self.samples, name, lambda s: s.answer is not None, "the answer yes or no")
        for sample in self.samples:
            read_label(self.truth(sample))

    def score(self, sample: Sample, answer: str) -> Scores:
        category, truth = _category(sample), read_label(self.truth(sample))
        scores = question_scores(self.read(answer), truth, category, self.weights[category])
        return prefixed(scores, self.prefix)

    @property
    def weights(self) -> dict[str, float]:
        """Of one question in the overall metrics, by split."""
        if self._weights_of is not self.samples:
            self._weights = category_weights(Counter(_category(sample) for sample in self.samples))
            self._weights_of = self.samples
        return self._weights

    _weights: dict[str, float]
    _weights_of: Sequence[Sample] | None = None


class ScoredSuite(Suite):
    """Questions of any benchmark whose answers are scored one by one.

    Args:
        samples: as the scorer needs them; readers in `parallax.evaluation.files` make them.
        scorer: (sample, answer) → metric name → (numerator, denominator). A pure function.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        scorer: Callable[[Sample, str], Scores],
        name: str,
        max_new_tokens: Count,
        prefix: AnyText = "",
    ) -> None:
        super().__init__(samples, name, max_new_tokens, prefix)
        self.scorer = scorer

    def score(self, sample: Sample, answer: str) -> Scores:
        return prefixed(self.scorer(sample, answer), self.prefix)


class GroupedSuite(Suite):
    """Questions of a benchmark that scores some answers together: all rotations of a question, both questions of an image.

    Args:
        samples: those that belong together share `attributes["group"]`.
        scorer: (samples and answers of all groups, in order) → scores in the same order. A pure function.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        scorer: Callable[[Sequence[tuple[Sample, str]]], list[Scores]],
        name: str,
        max_new_tokens: Count,
        prefix: AnyText = "",
    ) -> None:
        super().__init__(samples, name, max_new_tokens, prefix)
        self.scorer = scorer

    def score(self, sample: Sample, answer: str) -> Scores:
        """The score of an answer whose group is nothing but itself."""
        return self.score_all([(sample, answer)])[0]

    def score_all(self, answered: Sequence[tuple[Sample, str]]) -> list[Scores]:
        return [prefixed(scores, self.prefix) for scores in self.scorer(answered)]


def group_of(sample: Sample) -> str:
    """What the sample is scored together with; its own id where it stands alone."""
    return str(sample.attributes.get("group", sample.id))


def _category(sample: Sample) -> str:
    return str(sample.attributes.get("category", ""))


def prefixed(scores: Scores, prefix: str) -> Scores:
    return {f"{prefix}{name}": pair for name, pair in scores.items()} if prefix else scores


def _require(samples: Sequence[Sample], suite: str, has: Callable[[Sample], bool], what: str) -> None:
    missing = [sample.id for sample in samples if not has(sample)]
    if missing:
        raise ValueError(
            f"suite {suite!r} needs {what} with every sample; {len(missing)} of {len(samples)} have none, "
            f"the first is {missing[0]!r}. Use data that is annotated so, or leave this suite out."
        )
