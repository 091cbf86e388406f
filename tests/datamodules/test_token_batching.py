"""Rows of like length share a forward pass: limits hold, nothing is lost, padding stays small on real length distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.length_distributions import DISTRIBUTIONS
from datamodules.row_lengths import lengths_in_rows
from datamodules.steps import StepPlan
from datamodules.token_batching import Limit, cut, cut_for, deal, longest_first

WIDTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(lambda widths: sorted(widths, reverse=True))
LIMITS = st.builds(Limit, tokens=st.integers(1, 400), items=st.none() | st.integers(1, 9), rows=st.integers(1, 3))


@settings(max_examples=150, deadline=None)
@given(widths=WIDTHS, limit=LIMITS, processes=st.integers(1, 5))
def test_groups_keep_the_limit_and_processes_get_equally_many(widths: list[int], limit: Limit, processes: int) -> None:
    sizes = cut_for(widths, limit, processes)
    assert sum(sizes) == len(widths) and min(sizes) >= 1
    starts = np.cumsum([0, *sizes])
    for start, size in zip(starts, sizes, strict=False):
        tokens = limit.rows * size * widths[start]
        assert size == 1 or (tokens <= (limit.tokens or tokens) and size <= (limit.items or size))
    fewest = len(cut(widths, limit))
    assert len(sizes) % processes == 0 or len(sizes) == len(widths)  # too few items for a multiple
    assert fewest <= len(sizes) < fewest + processes
    shares = deal([size * widths[start] for start, size in zip(starts, sizes, strict=False)], processes)
    assert sorted(group for share in shares for group in share) == list(range(len(sizes)))
    assert max(map(len, shares)) == -(-len(sizes) // processes)


@settings(max_examples=60, deadline=None)
@given(widths=st.lists(st.integers(1, 6), min_size=1, max_size=7), limit=LIMITS)
def test_no_other_way_of_cutting_needs_fewer_passes(widths: list[int], limit: Limit) -> None:
    """Against all ways of cutting the sorted rows into neighbours."""
    falling = sorted(widths, reverse=True)
    count = len(falling)
    possible = []
    for pattern in range(1 << (count - 1)):
        ends = [place + 1 for place in range(count - 1) if pattern >> place & 1] + [count]
        starts = [0, *ends[:-1]]
        if all(end - start <= limit.fits(falling[start]) for start, end in zip(starts, ends, strict=True)):
            possible.append(len(ends))
    assert len(cut_for(falling, limit)) == min(possible)


def test_an_item_that_alone_exceeds_the_limit_has_a_pass_of_its_own() -> None:
    assert cut([500, 30, 30, 30, 10], Limit(tokens=100)) == [1, 3, 1]
    assert cut_for([500, 30, 30, 30, 10], Limit(tokens=100)) == [1, 3, 1]


def test_a_lone_remainder_is_evened_out() -> None:
    assert cut([10] * 5, Limit(items=4)) == [4, 1] and sorted(cut_for([10] * 5, Limit(items=4))) == [2, 3]


def test_two_processes_get_like_costs() -> None:
    widths = sorted(np.random.default_rng(0).integers(100, 900, 64).tolist(), reverse=True)
    sizes = cut_for(widths, Limit(tokens=4000), 4)
    costs = [size * widths[start] for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False)]
    loads = [sum(costs[group] for group in share) for share in deal(costs, 4)]
    assert max(loads) < 1.1 * min(loads)


def test_equal_rows_keep_their_order() -> None:
    assert longest_first([3, 1, 2, 0], [5, 7, 5, 5]) == [1, 3, 2, 0]


@pytest.mark.parametrize("wrong", [{}, {"tokens": 0}, {"items": 0}, {"items": 1, "rows": 0}])
def test_impossible_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="limit"):
        Limit(**wrong)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_padding_stays_below_a_tenth_at_steps_of_128_pairs(name: str, shared: bool) -> None:
    prompts, responses = DISTRIBUTIONS[name](1280, 1, np.random.default_rng(1))
    lengths = lengths_in_rows(prompts, responses, shared=shared)
    tokens = 4 * lengths.rows * int(lengths.widths.max())
    packed = StepPlan(1280, 128, 4, lengths=lengths, micro_batch_tokens=tokens).padding()
    assert packed is not None and packed.share < 0.1 and packed.longest <= tokens
    fixed = StepPlan(1280, 128, 4, lengths=lengths).padding()
    assert fixed is not None and packed.passes <= fixed.passes


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_grouping_by_length_keeps_padding_low_where_steps_are_small(name: str) -> None:
    prompts, responses = DISTRIBUTIONS[name](1280, 1, np.random.default_rng(2))
    lengths = lengths_in_rows(prompts, responses, shared=True)
    plain, grouped = (
        StepPlan(1280, 8, 8, lengths=lengths, micro_batch_tokens=10**6, group_by_length=group).padding()
        for group in (False, True)
    )
    assert plain is not None and grouped is not None
    assert grouped.share < 0.05 and grouped.share < plain.share and grouped.passes == plain.passes
