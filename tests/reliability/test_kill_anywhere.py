"""A command that is killed at any moment goes on when it is given again, and ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from PIL import Image

from tests.faults import Injected
from tests.reliability.kills import ALIGN, Untouched, kill_and_go_on, untouched
from tests.reliability.program import Program, run
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


def test_what_a_killed_command_unpacked_is_removed_by_the_next(tmp_path: Path, injected: Injected) -> None:
    """SIGKILL leaves no time to clean up: the temporary folder goes with the next start, whatever that reads."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = (
        json.dumps({"question": f"What is {n}?", "chosen": "A", "rejected": "B", "image": "a.png"})
        for n in range(50_000)
    )
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode(), 1))
    temp = tmp_path / "temporary"
    temp.mkdir()
    words = (
        "task=check_data",
        "method=dpo_file",
        f"data.path={tmp_path}/pairs.jsonl.gz",
        f"data.image_root={tmp_path}",
    )
    program = Program(words, tmp_path / "run", environment={"TMPDIR": str(temp)})
    while not list(temp.glob("*/*/pairs.jsonl")):
        assert program.status is None and program.seconds < 120, program.read()
        time.sleep(0.01)
    (left,) = temp.iterdir()
    program.signal(signal.SIGKILL)
    program.wait()
    assert left.is_dir()
    run(("task=check_data",), tmp_path / "run", environment={"TMPDIR": str(temp)})
    assert not left.exists()
    injected("killed with unpacked files in the temporary folder", told=1, says="the next start removes them")
