"""A disk that is full at some writing place: a sentence, nothing damaged, and with room again the same command goes on.

A limit on the size of files stands for the full disk: every file that would become larger fails to be written, in whichever
library, and the ladder of limits makes another writing place the first to fail each time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.conftest import Injected
from tests.reliability.program import SMALL, run
from tests.reliability.sameness import differences, only_run, results_of

WORDS = (*SMALL, "method=seva", "export.merged=true")
LADDER = (200, 1_500, 6_000, 12_000, 20_000, 50_000, 200_000, 1_000_000, 3_000_000, 6_000_000)  # bytes


def full_and_freed(limit: int, folder: Path) -> str:
    """Run with the limit, then without; returns what the first said. Fails unless the run did not care."""
    first = run(WORDS, folder, file_size=limit)
    if first.status == 0:
        return "nothing was larger"
    assert "The run stopped: " in first.screen and "Traceback" not in first.screen, first.screen
    assert "a file became larger than this process may write" in first.screen, first.screen
    assert "Nothing that was written before is damaged" in first.screen
    again = run(WORDS, folder)
    assert again.status == 0, again.screen
    left = [path for path in folder.rglob(".tmp-*") if path.exists()]
    assert not left, f"leftovers: {left}"
    return next(line for line in first.screen.splitlines() if line.startswith("The run stopped: "))


@pytest.mark.parametrize(
    "limits",
    [pytest.param((LADDER[3], LADDER[6]), id="two places"), pytest.param(LADDER, id="all", marks=pytest.mark.slow)],
)
def test_a_full_disk_costs_nothing_but_the_time_to_free_it(
    tmp_path: Path, injected: Injected, limits: tuple[int, ...]
) -> None:
    assert run(WORDS, tmp_path / "whole").status == 0
    whole = results_of(only_run(tmp_path / "whole"))
    stopped = 0
    for limit in limits:
        folder = tmp_path / str(limit)
        stopped += full_and_freed(limit, folder) != "nothing was larger"
        assert not differences(whole, results_of(only_run(folder))), limit
    assert stopped >= len(limits) // 2
    injected(
        "disk full at a writing place",
        stopped,
        "a sentence; after freeing space the same command ends with the same result",
    )
