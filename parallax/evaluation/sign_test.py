"""The sign test: of the images where two models differ on a metric, how many go to the second; is that more than luck?

It asks for nothing but which side was better, so it stands beside the bootstrap interval of the difference as a second witness
that does not care how large single differences are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

from parallax.evaluation.evaluation import Evaluation


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
