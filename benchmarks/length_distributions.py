"""Token counts like those of real data: (pairs, K, generator) -> prompts (N,), responses (N, 1 + K)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Distribution = Callable[[int, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def details(count: int, negatives: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """LLaVA-1.5 describing at length: 576 image tokens, 50 to 300 tokens an answer, the answers of a pair alike."""
    typical = rng.normal(150, 45, (count, 1))
    answers = typical + rng.normal(0, 25, (count, 1 + negatives))
    return 576 + rng.integers(40, 80, count), np.clip(answers, 50, 300).astype(int)


def sentences(count: int, negatives: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """LLaVA-1.5 on TextCaps: one sentence of 8 to 40 tokens; prompts carry OCR words at times."""
    return 576 + rng.integers(40, 120, count), rng.integers(8, 41, (count, 1 + negatives))


def mixed(count: int, negatives: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Both sources in one set, half and half."""
    long, short = details(count, negatives, rng), sentences(count, negatives, rng)
    first = rng.random(count) < 0.5
    return np.where(first, long[0], short[0]), np.where(first[:, None], long[1], short[1])


def free_sizes(count: int, negatives: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Qwen-VL on photographs of all sizes: 64 to 1,280 image tokens, many of them near the limit."""
    image = np.clip(rng.lognormal(6.2, 0.7, count), 64, 1280).astype(int)
    return image + rng.integers(30, 70, count), details(count, negatives, rng)[1]


DISTRIBUTIONS: dict[str, Distribution] = {
    "details": details,
    "sentences": sentences,
    "mixed": mixed,
    "free_sizes": free_sizes,
}
