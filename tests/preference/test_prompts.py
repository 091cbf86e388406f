"""Prompt pools: uniform draws that belong to the sample, and pools a user brings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from parallax.preference.prompts import PromptPool, pool_from_file, pools_from


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


def test_pools_of_a_node_and_of_a_file(tmp_path: Path) -> None:
    pools = pools_from({"good": ["one", " two "], "fixed": "three", "limit": 5})
    assert {name: list(pool) for name, pool in pools.items()} == {"good": ["one", "two"], "fixed": ["three"]}
    (tmp_path / "p.txt").write_text("# mine\nDescribe it.\n\nWhat is it?\n")
    assert list(pool_from_file(tmp_path / "p.txt")) == ["Describe it.", "What is it?"]


def test_empty_pools_are_refused(tmp_path: Path) -> None:
    for wrong in ([], "text", [""], [3]):
        with pytest.raises(ValueError, match="prompt"):
            PromptPool(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds no pool"):
        pools_from({"limit": 5})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        pool_from_file(tmp_path / "none.txt")
