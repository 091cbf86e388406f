"""Does a recipe help? Its effect over several seeds and many scenes, with an interval that covers both kinds of luck.

Every metric is a ratio of sums over items (see `ratio.py`). Each replicate of a bootstrap draws the evaluation items anew (the
same draw for before and after, so the comparison stays paired). Three seeds drawn anew would say next to nothing about a fourth
(such intervals cover 78 % where seeds differ more than scenes), so what seeds do enters as Student's t does: the interval is the
mean over seeds ± t(0.975, seeds − 1) × √(variance over seeds ÷ seeds + variance over items). The first variance holds a part of
the second already, so the interval errs on the wide side. With one seed it speaks about scenes alone.

The sign test: of the images where two models differ on a metric, how many go to the second; is that more than luck?

It asks for nothing but which side was better, so it stands beside the bootstrap interval of the difference as a second witness
that does not care how large single differences are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallax.evaluation.evaluation import Evaluation

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effect:
    """One metric before and after tuning. `change` is after − before; `relative` is change ÷ before. 95 % intervals."""

    before: float
    after: float  # mean over seeds
    after_by_seed: tuple[float, ...]
    change: float
    change_low: float
    change_high: float
    relative: float
    relative_low: float
    relative_high: float
    seeds: int
    items: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def effect_over_seeds(
    before: tuple[Array, Array],
    after: Sequence[tuple[Array, Array]],
    *,
    replicates: int = 4000,
    seed: int = 0,
) -> Effect:
    """The effect of tuning on one metric.

    Args:
        before: numerators and denominators per item, each of shape (N,).
        after: the same for every training seed, on the same items in the same order.
        replicates: bootstrap replicates.
        seed: seed of the bootstrap.

    Raises:
        ValueError: if the items differ in number, there is no seed, or a denominator sums to zero.
    """
    numerators = np.stack([np.asarray(n, dtype=np.float64) for n, _ in after]) if after else np.zeros((0, 0))
    denominators = np.stack([np.asarray(d, dtype=np.float64) for _, d in after]) if after else np.zeros((0, 0))
    base_num, base_den = (np.asarray(a, dtype=np.float64) for a in before)
    if not len(after):
        raise ValueError("an effect over seeds needs the evaluation of at least one tuned model; none was given")
    if numerators.shape[1:] != base_num.shape or denominators.shape[1:] != base_den.shape:
        raise ValueError(
            f"before has {base_num.shape[0]} items and after {numerators.shape[1]}; both must be evaluated on the same items"
        )
    if base_den.sum() <= 0 or (denominators.sum(axis=1) <= 0).any():
        raise ValueError("a metric whose denominator sums to zero has no value; nothing of its kind was evaluated")

    count, items = numerators.shape
    base = float(base_num.sum() / base_den.sum())
    by_seed = numerators.sum(axis=1) / denominators.sum(axis=1)  # (S,)

    rng = np.random.default_rng(seed)
    changes, relatives = [], []
    for start in range(0, replicates, 500):  # blocks bound the memory of the weights
        rows = min(500, replicates - start)
        weights = rng.multinomial(items, np.full(items, 1.0 / items), size=rows).astype(np.float64)  # (rows, N)
        drawn_base = (weights @ base_num) / np.maximum(weights @ base_den, 1e-12)  # (rows,)
        drawn_seeds = (weights @ numerators.T) / np.maximum(weights @ denominators.T, 1e-12)  # (rows, S)
        drawn_after = drawn_seeds.mean(axis=1)
        changes.append(drawn_after - drawn_base)
        relatives.append((drawn_after - drawn_base) / np.maximum(drawn_base, 1e-12))
    change = float(by_seed.mean() - base)
    relative = change / base if base else float("nan")
    change_low, change_high = _interval(change, np.concatenate(changes), by_seed)
    relative_low, relative_high = _interval(relative, np.concatenate(relatives), by_seed / base if base else by_seed)
    return Effect(
        before=base,
        after=float(by_seed.mean()),
        after_by_seed=tuple(float(v) for v in by_seed),
        change=change,
        change_low=change_low,
        change_high=change_high,
        relative=relative,
        relative_low=relative_low,
        relative_high=relative_high,
        seeds=count,
        items=items,
    )


def _interval(middle: float, drawn: Array, by_seed: Array) -> tuple[float, float]:
    """95 % interval around `middle` from bootstrap draws over items and one value per seed; percentiles for a single seed."""
    if len(by_seed) == 1:
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)
    spread = float(np.sqrt(by_seed.var(ddof=1) / len(by_seed) + drawn.var(ddof=1)))
    half = t_quantile(len(by_seed) - 1) * spread
    return middle - half, middle + half


def t_quantile(freedom: int, probability: float = 0.975) -> float:
    """The quantile of Student's t distribution, by bisection of its distribution function. `freedom`: 1 or more."""
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_below(t: float, freedom: int) -> float:
    """P(T < t) for t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        inside = (angle + sine * total) * 2 / math.pi
    else:
        term = total = 1.0
        for k in range(2, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        inside = sine * total
    return 0.5 + inside / 2


@dataclass(frozen=True, slots=True)
class SignTest:
    """Counts of images where the second side's value is higher, lower and equal; `p` is two-sided, None without differences."""

    higher: int
    lower: int
    equal: int
    p: float | None

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def sign_test(higher: int, lower: int, equal: int = 0) -> SignTest:
    """The exact test: twice the smaller tail of a fair coin, at most 1."""
    thrown = higher + lower
    if not thrown:
        return SignTest(higher, lower, equal, None)
    tail = sum(comb(thrown, count) for count in range(min(higher, lower) + 1)) / 2**thrown
    return SignTest(higher, lower, equal, min(1.0, 2 * tail))


def sign_tests(first: Evaluation, second: Evaluation) -> dict[str, SignTest]:
    """Per metric both have, over images: questions about one image are one throw, since they succeed and fail together."""
    other = {item.key: item for item in second.items}
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0] * 4))
    for item in first.items:
        twin = other.get(item.key)
        for name in item.scores if twin is not None else ():
            if twin is not None and name in twin.scores:
                row = sums[name][item.group]
                for place, value in enumerate((*item.scores[name], *twin.scores[name])):
                    row[place] += value
    tests = {}
    for name, groups in sums.items():
        changes = [d / e - b / c for b, c, d, e in groups.values() if c and e]
        counts = sum(x > 1e-12 for x in changes), sum(x < -1e-12 for x in changes)
        tests[name] = sign_test(*counts, len(changes) - sum(counts))
    return tests


def wins_of(verdicts: Sequence[tuple[str | None, str | None]]) -> tuple[int, int, int, int]:
    """Wins of the second, losses, ties, and comparisons without a verdict.

    Args:
        verdicts: per comparison what a judge said in either order of the answers: `first`, `second` or `tie`, None for a failure.
            A side wins only if it is preferred in both orders, or in one with a tie in the other.
    """
    wins = losses = ties = failed = 0
    for one, two in verdicts:
        if one is None or two is None:
            failed += 1
            continue
        said = {one, two} - {"tie"}
        if said == {"second"}:
            wins += 1
        elif said == {"first"}:
            losses += 1
        else:
            ties += 1
    return wins, losses, ties, failed
