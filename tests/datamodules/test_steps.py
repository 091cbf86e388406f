"""Steps are a pure function of seed, epoch and step; processes and micro-batches only divide them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.steps import StepPlan

PLANS = st.builds(
    StepPlan, pairs=st.integers(1, 60), batch_size=st.integers(1, 16), micro_batch_size=st.integers(1, 6),
    seed=st.integers(0, 3), repeat=st.integers(1, 3),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(plan=PLANS, world=st.integers(1, 5), epoch=st.integers(0, 3))
def test_all_processes_together_see_every_pair_as_often_as_it_is_listed(plan: StepPlan, world: int, epoch: int) -> None:
    ranks = [replace(plan, rank=rank, world_size=world) for rank in range(world)]
    seen: Counter[int] = Counter()
    for number in range(plan.steps_per_epoch):
        alone = plan.step(epoch, number)
        parts = [rank.step(epoch, number) for rank in ranks]
        counted = [p for part in parts for batch in part.micro_batches[: part.counted] for p in batch]
        assert sorted(counted) == sorted(p for batch in alone.micro_batches for p in batch)  # two processes equal one
        assert len({len(part.micro_batches) for part in parts}) == 1 and len(parts[0].micro_batches) > 0
        assert {part.pairs_in_step for part in parts} == {len(counted)}
        assert all(len(batch) <= plan.micro_batch_size for part in parts for batch in part.micro_batches)
        seen.update(counted)
    assert seen == dict.fromkeys(range(plan.pairs), plan.repeat)


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
