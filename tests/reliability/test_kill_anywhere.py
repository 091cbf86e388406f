"""A run that is killed at any moment goes on with the same command and ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.reliability.conftest import Injected
from tests.reliability.program import SMALL, Program, run
from tests.reliability.sameness import bytes_that_differ, differences, only_run, results_of

METHODS = {
    "one stage": ("method=seva", "evaluation.when=[after]"),
    "two stages": ("method=stic", "stages.infuse.data.size=10"),
    "pairs built anew": ("method=seva", "pairs.refresh=2_steps", "evaluation.every_n_steps=2", "export.merged=true"),
}  # fmt: skip


def killed_and_resumed(words: tuple[str, ...], moments: list[float], whole: Path, folder: Path) -> list[str]:
    """Kill at each moment (seconds after the start), go on, compare with `whole`; what differed, in words."""
    wrong = []
    for number, moment in enumerate(moments):
        place = folder / str(number)
        Program(words, place).kill_after(moment)
        again = run(words, place)
        if again.status != 0:
            wrong.append(f"killed after {moment:.2f} s it did not go on:\n{again.screen}")
            continue
        if different := differences(results_of(only_run(whole)), results_of(only_run(place))):
            wrong.append(f"killed after {moment:.2f} s, these differ: {', '.join(different)}\n{again.screen}")
            continue  # the folder stays, to be looked at
        shutil.rmtree(place)
    return wrong


def kill_all_over(method: str, kills: int, folder: Path) -> list[str]:
    """Kills at random moments, spread evenly over the length of an uninterrupted run."""
    words = (*SMALL, *METHODS[method])
    run(words, folder / "first")  # whatever is slow only once
    whole = run(words, folder / "whole")
    assert whole.status == 0, whole.screen
    assert not bytes_that_differ(only_run(folder / "first"), only_run(folder / "whole")), (
        "the same command, other files"
    )
    draw = random.Random(f"{method} {kills}")
    moments = [(number + draw.random()) / kills * whole.seconds for number in range(kills)]
    return killed_and_resumed(words, moments, folder / "whole", folder / "killed")


def test_killed_at_a_few_moments(tmp_path: Path, injected: Injected) -> None:
    wrong = kill_all_over("one stage", 2, tmp_path)
    assert not wrong, "\n\n".join(wrong)
    injected(
        "SIGKILL at a random moment of a run",
        2,
        "the same command goes on; pairs, losses, adapter the same to the last bit",
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["two stages", "pairs built anew"])
def test_killed_at_fifty_moments(tmp_path: Path, injected: Injected, method: str) -> None:
    wrong = kill_all_over(method, 25, tmp_path)
    assert not wrong, "\n\n".join(wrong)
    injected(
        "SIGKILL at a random moment of a run",
        25,
        "the same command goes on; pairs, losses, adapter the same to the last bit",
    )
