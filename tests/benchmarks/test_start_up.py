"""The start-up timeline reads what runs really write."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmarks.start_up import MILESTONES, _milestones, slowest_imports
from parallax.models.generation.rollout import log as rollout_log
from parallax.reports.run_log import run_log


def test_milestones_are_found_in_a_run_log(tmp_path: Path) -> None:
    with run_log(tmp_path, screen=False) as path:
        logging.getLogger("parallax.tasks.align").info("run folder %s", tmp_path)
        logging.getLogger("parallax.tasks.align").info("policy %s, 3 parameters trained", "tiny")
        assert set(_milestones(path, 0.0)) == set(list(MILESTONES)[:2])
        rollout_log.debug("first token, of the first %d answers", 4)
    found = _milestones(path, 0.0)
    assert list(found) == list(MILESTONES) and sorted(found.values()) == list(found.values())


def test_the_slowest_imports_come_first() -> None:
    lines = ["import time: self [us] | cumulative | imported package", "import time:   5 |   1500000 |   torch",
             "import time:   5 |   2500000 | peft", "import time:   5 |  9000000 |     torch._inductor.a.b"]  # fmt: skip
    assert slowest_imports("\n".join(lines)) == [("peft", 2.5), ("torch", 1.5)]
    assert slowest_imports("nothing") == []


@pytest.mark.slow
def test_a_real_run_comes_to_its_first_token(tmp_path: Path) -> None:
    from benchmarks.start_up import one_start

    found, _ = one_start(tmp_path)
    assert list(found) == list(MILESTONES)
