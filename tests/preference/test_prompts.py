"""Prompt pools: uniform draws that belong to the sample."""

from __future__ import annotations

from collections import Counter

import pytest

from parallax.preference.prompts import PromptPool


def test_draws_are_uniform_and_fixed_by_seed_sample_pool_and_index() -> None:
    pool = PromptPool(["a", "b", "c", "d"])
    drawn = [pool.draw(0, f"sample{k}") for k in range(2000)]
    assert all(420 < count < 580 for count in Counter(drawn).values())
    assert drawn == [pool.draw(0, f"sample{k}") for k in range(2000)]
    for other in (pool.draw(1, "s"), pool.draw(0, "s", 1), PromptPool(pool.texts, "bad").draw(0, "s")):
        assert other in pool.texts
    assert [pool.draw(0, "s", k) for k in range(30)] != [
        PromptPool(pool.texts, "bad").draw(0, "s", k) for k in range(30)
    ]


def test_empty_pools_are_refused() -> None:
    for wrong in ([], "text", [""], [3]):
        with pytest.raises(ValueError, match="prompt"):
            PromptPool(wrong)  # type: ignore[arg-type]
