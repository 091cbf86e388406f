"""Steps are a pure function of seed, epoch and step; processes and micro-batches only divide them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.row_lengths import lengths_in_rows
from datamodules.steps import StepPlan


@st.composite
def plans(draw: st.DrawFn) -> StepPlan:
    """With a fixed number of pairs or a budget of tokens, lengths known or not, steps grouped by length or not."""
    pairs = draw(st.integers(1, 60))
    plan = StepPlan(
        pairs,
        batch_size=draw(st.integers(1, 16)),
        micro_batch_size=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 3)),
        repeat=draw(st.integers(1, 3)),
    )
    if draw(st.booleans()):
        return plan
    widths = draw(st.lists(st.integers(1, 90), min_size=pairs, max_size=pairs))
    lengths = lengths_in_rows(widths, np.ones((pairs, draw(st.integers(1, 3)))), shared=draw(st.booleans()))
    budget = draw(st.none() | st.integers(1, 900))
    return replace(plan, lengths=lengths, micro_batch_tokens=budget, group_by_length=draw(st.booleans()))


@settings(max_examples=120, deadline=None)
@given(plan=plans(), world=st.integers(1, 5), epoch=st.integers(0, 3))
def test_all_processes_together_see_every_pair_as_often_as_it_is_listed(plan: StepPlan, world: int, epoch: int) -> None:
    ranks = [replace(plan, rank=rank, world_size=world) for rank in range(world)]
    seen: Counter[int] = Counter()
    for number in range(plan.steps_per_epoch):
        alone = plan.step(epoch, number)
        parts = [rank.step(epoch, number) for rank in ranks]
        groups = [batch for part in parts for batch in part.micro_batches[: part.counted]]
        counted = [place for batch in groups for place in batch]
        assert sorted(counted) == sorted(p for batch in alone.micro_batches for p in batch)  # two processes equal one
        assert len({len(part.micro_batches) for part in parts}) == 1 and len(parts[0].micro_batches) > 0
        assert {part.pairs_in_step for part in parts} == {len(counted)} == {alone.pairs_in_step}
        assert sum(Fraction(len(batch), alone.pairs_in_step) for batch in groups) == 1  # the weights of micro-batches
        for batch in (batch for part in parts for batch in part.micro_batches):
            assert len(batch) == 1 or plan.limit.fits(max(widths_of(plan, batch))) >= len(batch)
        seen.update(counted)
    assert seen == dict.fromkeys(range(plan.pairs), plan.repeat)


def widths_of(plan: StepPlan, places: Sequence[int]) -> list[int]:
    return [int(plan.lengths.widths[place]) if plan.lengths is not None else 1 for place in places]


@settings(max_examples=60, deadline=None)
@given(plan=plans(), epoch=st.integers(0, 2))
def test_a_plan_made_anew_in_the_middle_of_an_epoch_goes_on_with_the_same_steps(plan: StepPlan, epoch: int) -> None:
    whole = [plan.step(epoch, number) for number in range(plan.steps_per_epoch)]
    lengths = plan.lengths and replace(plan.lengths, widths=plan.lengths.widths.copy())
    again = replace(plan, lengths=lengths)
    middle = plan.steps_per_epoch // 2
    assert [again.step(epoch, number) for number in range(middle, again.steps_per_epoch)] == whole[middle:]


@settings(max_examples=60, deadline=None)
@given(plan=plans(), micro=st.integers(1, 9), tokens=st.integers(1, 500), epoch=st.integers(0, 2))
def test_packing_never_changes_which_pairs_a_step_holds(plan: StepPlan, micro: int, tokens: int, epoch: int) -> None:
    other = replace(plan, micro_batch_size=micro, micro_batch_tokens=tokens if plan.lengths is not None else None)
    for number in range(plan.steps_per_epoch):
        one, two = (sorted(p for batch in p_.step(epoch, number).micro_batches for p in batch) for p_ in (plan, other))
        assert one == two


def test_steps_grouped_by_length_hold_pairs_of_like_length_in_shuffled_order() -> None:
    lengths = lengths_in_rows(np.arange(1, 83), np.ones((82, 2)), shared=True)
    plan = StepPlan(82, 8, 8, lengths=lengths, group_by_length=True)
    spans = [np.ptp([lengths.widths[p] for batch in plan.groups(0, s) for p in batch]) for s in range(10)]
    assert max(spans) <= 9  # ten whole steps out of 82 lengths
    first = [lengths.widths[plan.groups(0, s)[0][0]] for s in range(10)]
    assert first != sorted(first) and first != sorted(first, reverse=True)
    assert plan.order(0).tolist() != plan.order(1).tolist()
    assert sum(map(len, plan.groups(0, 10))) == 2


def test_the_micro_batch_size_does_not_change_which_pairs_a_step_holds() -> None:
    one, other = StepPlan(50, 16, 16, seed=3), StepPlan(50, 16, 5, seed=3)
    for step in range(4):
        flat = [[p for batch in plan.step(2, step).micro_batches for p in batch] for plan in (one, other)]
        assert flat[0] == flat[1]


def test_the_order_changes_with_seed_and_epoch_and_with_nothing_else() -> None:
    plan = StepPlan(40, 8, 4, seed=1)
    assert plan.order(0).tolist() == StepPlan(40, 16, 2, seed=1).order(0).tolist()
    assert plan.order(0).tolist() != plan.order(1).tolist() != StepPlan(40, 8, 4, seed=2).order(1).tolist()


def test_the_last_step_is_ragged_not_dropped() -> None:
    plan = StepPlan(10, 4, 4)
    assert [plan.step(0, s).pairs_in_step for s in range(plan.steps_per_epoch)] == [4, 4, 2]
    with pytest.raises(IndexError, match="step 3 of an epoch of 3"):
        plan.step(0, 3)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"micro_batch_size": 0}, {"repeat": 0}, {"rank": 2, "world_size": 2}]
)
def test_impossible_plans_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="can"):
        StepPlan(**({"pairs": 4, "batch_size": 2, "micro_batch_size": 1} | wrong))


def test_a_budget_without_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="without the lengths"):
        StepPlan(4, 2, 1, micro_batch_tokens=100)
    with pytest.raises(ValueError, match="one length for each pair"):
        StepPlan(4, 2, 1, lengths=lengths_in_rows([3], np.ones((1, 2)), shared=True))
