"""A command that is killed at any moment goes on when it is given again, and ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.faults import Injected
from tests.reliability.kills import ALIGN, Untouched, kill_and_go_on, untouched
from tests.reliability.program import run
from tests.reliability.sameness import only_run

KILLS = {
    "a run of one stage": 13, "a run of two stages": 13, "a run whose pairs are built anew every two steps": 13,
    "a run of two rounds": 13, "a run of two rounds, in its second": 4, "a run of one stage, from its training on": 9,
    "task=build_pairs": 4, "task=evaluate": 4, "task=merge": 4, "a multirun": 4, "task=sweep": 4,
    "task=sweep with its workers": 3, "a run with an image term": 6, "a run of online DPO": 6,
}  # fmt: skip
QUICK = {("a run of one stage", 4), ("a run of one stage", 9)}
Whole = Callable[[str], Untouched]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The untouched run of a scenario, made when it is asked for."""

    @lru_cache(maxsize=1)
    def made() -> Path:
        folder = tmp_path_factory.mktemp("made")
        done = run(ALIGN, folder)
        assert done.status == 0, done.screen
        return only_run(folder)

    @lru_cache(maxsize=2)
    def of(name: str) -> Untouched:
        needs = name in ("task=evaluate", "task=merge")
        return untouched(name, tmp_path_factory.mktemp("untouched"), made() if needs else None)

    return of


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(name, number, id=f"{name} {number}", marks=() if (name, number) in QUICK else pytest.mark.slow)
        for name, kills in KILLS.items()
        for number in range(kills)
    ],
)
def test_a_killed_command_goes_on_and_ends_the_same(
    tmp_path: Path, whole: Whole, injected: Injected, name: str, number: int
) -> None:
    killed = kill_and_go_on(name, number, KILLS[name], whole(name), tmp_path / "killed")
    assert not killed.wrong, f"{killed.signum.name} after {killed.seconds:.2f} s, {killed.phase}: {killed.wrong}"
    injected(
        f"killed at a random moment (SIGKILL, SIGTERM, SIGINT): {name}",
        same=1, where=(killed.phase,), says="the same command goes on: pairs, order, losses, weights",
    )  # fmt: skip
    shutil.rmtree(tmp_path / "killed")
