"""CSR's judge (arXiv 2405.14622, section 3.1): each sentence is scored by the model's own probability and by how well it fits the
picture, and an answer by its sentences. With an image weight of 0 it is the self-rewarding baseline and loads no other model.

CSR's calibrated reward (arXiv 2405.14622, section 3.1): how a sentence's language score and image relevance become one number.

Language scores are log-probabilities, relevance is a cosine: added as they are (`raw_sum`, the paper's formula, with 100·cosine
against a probability) the language score drowns. `sibling_rank` (the released code) compares each sentence with its siblings,
the other continuations of the same text, and adds normalised ranks; `zscore` adds standard scores among siblings.
Everything here is higher-is-better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from parallax.preference.judge import Judge, Judgement
from parallax.preference.proposer import Generate
from parallax.preference.tree import Leaf, Node, Tree
from parallax.records import Candidate, ImageRef, Sample
from parallax.settings.ranges import Share

if TYPE_CHECKING:
    import torch

    from parallax.models.policy import Policy


class Relevance(Protocol):
    """What says how well texts fit pictures; `parallax.models.image_text.ImageTextModel` does."""

    def cosines(self, pairs: Sequence[tuple[ImageRef, str]], device: torch.device | str = "cpu") -> list[float]: ...

    def digest(self) -> str: ...


class ClipCalibrated(Judge):
    """Scores the leaves of sentence trees.

    Args:
        image_text: the CLIP-like model; None only with an image weight of 0.
        image_weight: λ, the share of the image relevance, 0 to 1 (the paper: 0.9).
        combine, len_norm: how the two scores become one, and a path's steps one score; see `calibration`.
    """

    needs_trees: ClassVar[bool] = True  # scores nothing but leaves of sentence trees

    name = "clip_calibrated"

    def __init__(
        self,
        image_text: Relevance | None = None,
        *,
        image_weight: Share,
        combine: Combine,
        len_norm: LenNorm,
    ) -> None:
        if image_text is None and image_weight > 0:
            raise ValueError(f"judge.image_weight={image_weight} needs judge.image_text, a CLIP-like model")
        self.image_text, self.image_weight = image_text, image_weight
        self.combine: Combine = combine
        self.len_norm: LenNorm = len_norm

    def settings(self) -> dict[str, Any]:
        """Everything that decides the scores, as plain data."""
        used = self.image_weight > 0 and self.image_text is not None
        return {
            "judge": self.name,
            "image_text": self.image_text.digest() if used and self.image_text is not None else None,
            "image_weight": self.image_weight,
            "combine": self.combine,
            "len_norm": self.len_norm,
        }

    def steps(
        self, families: Sequence[tuple[Sequence[ImageRef], Sequence[Node]]], device: torch.device | str
    ) -> list[list[float]]:
        """The score of each sentence among its siblings, for many families at once. Higher is better."""
        return [
            step_scores(
                [node.log_prob for node in siblings],
                [len(node.token_ids) for node in siblings],
                cosines,
                weight=self.image_weight,
                combine=self.combine,
            )
            for (_, siblings), cosines in zip(families, self._cosines(families, device), strict=True)
        ]

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> list[Judgement]:
        """Path scores; every response carries its sentences with both scores, and the pair names its tree.

        Raises ValueError for candidates that are no leaves of a sentence tree.
        """
        trees = [_tree_of(sample, group) for sample, group in zip(samples, candidates, strict=True)]
        families = [
            (place, parent, siblings)
            for place, tree in enumerate(trees)
            if tree is not None
            for parent, siblings in tree.families().items()
        ]
        asked = [(samples[place].conversation().images, siblings) for place, _, siblings in families]
        steps: list[dict[int, float]] = [{} for _ in samples]
        cosines: list[dict[int, float]] = [{} for _ in samples]
        found = zip(families, self.steps(asked, policy.device), self._cosines(asked, policy.device), strict=True)
        for (place, _, siblings), scores, relevance in found:
            steps[place] |= {node.id: score for node, score in zip(siblings, scores, strict=True)}
            if relevance is not None:
                cosines[place] |= {node.id: cosine for node, cosine in zip(siblings, relevance, strict=True)}
        return [
            self._judged(group, tree, steps[place], cosines[place])
            for place, (group, tree) in enumerate(zip(candidates, trees, strict=True))
        ]

    def words(self, counts: Mapping[str, int]) -> str:
        """One line about a build."""
        return (
            f"clip-calibrated: {counts.get('leaves', 0):,} answers and {counts.get('sentences', 0):,} sentences of "
            f"{counts.get('trees', 0):,} trees scored, {self.image_weight:g} of it by the picture"
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _cosines(
        self, families: Sequence[tuple[Sequence[ImageRef], Sequence[Node]]], device: torch.device | str
    ) -> Sequence[list[float] | None]:
        """How well each sentence fits a picture of its prompt: the one it fits best, since a sentence may speak of any."""
        if self.image_weight == 0 or self.image_text is None:
            return [None] * len(families)
        pairs = [(image, node.text) for images, siblings in families for node in siblings for image in images]
        values = iter(self.image_text.cosines(pairs, device))
        return [[max(next(values) for _ in images) for _ in siblings] for images, siblings in families]

    def _judged(
        self, group: Sequence[Candidate], tree: Tree | None, steps: dict[int, float], cosines: dict[int, float]
    ) -> Judgement:
        if tree is None:
            return Judgement()  # no candidates: the selector says so
        scores, each = [], []
        for leaf in group:
            assert isinstance(leaf, Leaf)
            path = [node for node in tree.path(leaf.node) if node.is_sentence]
            scores.append(path_score([steps[node.id] for node in path], self.len_norm))
            each.append(
                {
                    "node": leaf.node,
                    "sentences": [
                        {
                            "node": node.id,
                            "text": node.text,
                            "mean_log_prob": node.mean_log_prob,
                            "cosine": cosines.get(node.id),
                            "step": steps[node.id],
                        }
                        for node in path
                    ],
                }
            )
        notes = {"tree": tree.key, "leaves": len(group), "sentences": len(steps)}
        counts = {"trees": 1, "leaves": len(group), "sentences": len(steps)}
        return Judgement(tuple(scores), notes=notes, each=tuple(each), counts=counts)


def _tree_of(sample: Sample, group: Sequence[Candidate]) -> Tree | None:
    """The one tree that all candidates of a sample are leaves of; None where there are none."""
    for candidate in group:
        if not isinstance(candidate, Leaf):
            raise ValueError(
                f"judge=clip_calibrated scores the leaves of sentence trees, and sample {sample.id!r} came with other "
                "answers; use method=csr, or another judge"
            )
    return group[0].tree if group else None  # type: ignore[attr-defined]


Combine = Literal["raw_sum", "sibling_rank", "zscore"]
LenNorm = Literal["sentences", "sentences_plus_one", "none"]


def step_scores(
    log_probs: Sequence[float],
    lengths: Sequence[int],
    cosines: Sequence[float] | None,
    *,
    weight: float,
    combine: Combine,
) -> list[float]:
    """The score of each of some siblings.

    Args:
        log_probs: each sentence's summed log-probability, without any diversity penalty.
        lengths: each sentence's number of tokens, 1 or more.
        cosines: of each sentence and the picture; None only with weight 0.
        weight: λ, the share of the image relevance, 0 to 1.
        combine: `raw_sum`: (1 - λ)·exp(log-prob) + λ·max(100·cosine, 0).
            `sibling_rank`: minus ((1 - λ)·rank of the mean log-prob + λ·rank of the cosine), where the best of n has rank 1/n
            and the worst 1; equal ones share the mean of their ranks.
            `zscore`: (1 - λ)·z(mean log-prob) + λ·z(cosine) with population standard deviations; 0 where all are equal.
    """
    if cosines is None and weight > 0:
        raise ValueError(f"an image weight of {weight} needs image relevances")
    image = list(cosines) if cosines is not None else [0.0] * len(log_probs)
    means = [total / count for total, count in zip(log_probs, lengths, strict=True)]
    if combine == "raw_sum":
        pairs = zip(log_probs, image, strict=True)
        return [(1 - weight) * math.exp(total) + weight * max(100 * cosine, 0.0) for total, cosine in pairs]
    if combine == "sibling_rank":
        language, relevance = normalised_ranks(means), normalised_ranks(image)
        return [-((1 - weight) * a + weight * b) for a, b in zip(language, relevance, strict=True)]
    language, relevance = standard_scores(means), standard_scores(image)
    return [(1 - weight) * a + weight * b for a, b in zip(language, relevance, strict=True)]


def normalised_ranks(values: Sequence[float]) -> list[float]:
    """1/n for the largest of n values … 1 for the smallest; equal values share the mean of their ranks."""
    n = len(values)
    return [(sum(v > own for v in values) + (sum(v == own for v in values) + 1) / 2) / n for own in values]


def standard_scores(values: Sequence[float]) -> list[float]:
    """(value - mean) / population standard deviation; all 0 where the values are equal."""
    if not values:
        return []
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / deviation if deviation > 0 else 0.0 for value in values]


def path_score(steps: Sequence[float], norm: LenNorm) -> float:
    """The score of a path of sentences: their sum, divided by their number d (`sentences`), by d + 1 (`sentences_plus_one`, as
    the released code, which counts the root), or by nothing (`none`, the paper's formula).

    Raises ValueError for a path without sentences.
    """
    if not steps:
        raise ValueError("a path without sentences has no score; leave it out")
    divisor = {"sentences": len(steps), "sentences_plus_one": len(steps) + 1, "none": 1}[norm]
    return sum(steps) / divisor
