"""Does a recipe help? Its effect over several seeds and many scenes, with an interval that covers both kinds of luck.

Every metric is a ratio of sums over items (see `ratio.py`). The interval is a two-way bootstrap: each replicate draws the
evaluation items anew (the same draw for before and after, so the comparison stays paired) and draws the training seeds
anew. An interval that excludes zero therefore speaks about new scenes *and* new seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

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
        picks = rng.integers(count, size=(rows, count))
        drawn_after = np.take_along_axis(drawn_seeds, picks, axis=1).mean(axis=1)
        changes.append(drawn_after - drawn_base)
        relatives.append((drawn_after - drawn_base) / np.maximum(drawn_base, 1e-12))
    change_low, change_high = np.percentile(np.concatenate(changes), [2.5, 97.5])
    relative_low, relative_high = np.percentile(np.concatenate(relatives), [2.5, 97.5])
    change = float(by_seed.mean() - base)
    return Effect(
        before=base,
        after=float(by_seed.mean()),
        after_by_seed=tuple(float(v) for v in by_seed),
        change=change,
        change_low=float(change_low),
        change_high=float(change_high),
        relative=change / base if base else float("nan"),
        relative_low=float(relative_low),
        relative_high=float(relative_high),
        seeds=count,
        items=items,
    )
