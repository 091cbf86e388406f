"""CSR's calibrated reward (arXiv 2405.14622, section 3.1): how a sentence's language score and image relevance become one number.

Language scores are log-probabilities, relevance is a cosine: added as they are (`raw_sum`, the paper's formula, with 100·cosine
against a probability) the language score drowns. `sibling_rank` (the released code) compares each sentence with its siblings,
the other continuations of the same text, and adds normalised ranks; `zscore` adds standard scores among siblings.
Everything here is higher-is-better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

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
    if combine not in get_args(Combine):
        raise ValueError(f"judge.combine is {combine!r}; it can be {', '.join(get_args(Combine))}")
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
    if norm not in get_args(LenNorm):
        raise ValueError(f"judge.len_norm is {norm!r}; it can be {', '.join(get_args(LenNorm))}")
    if not steps:
        raise ValueError("a path without sentences has no score; leave it out")
    divisor = {"sentences": len(steps), "sentences_plus_one": len(steps) + 1, "none": 1}[norm]
    return sum(steps) / divisor
