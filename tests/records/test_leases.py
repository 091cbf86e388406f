"""Work is taken by one process at a time, given back, and taken over from the dead."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from parallax.records.leases import Leases


def test_a_key_has_one_owner_until_it_is_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    with Leases(folder) as one, Leases(folder) as two:
        assert one.take("a") and one.take("a") and not two.take("a")
        assert two.take("b") and not one.take("b")
        one.give_back(["a", "never taken"])
        assert two.take("a")
    assert not folder.exists()


def test_leaving_gives_everything_back(tmp_path: Path) -> None:
    with Leases(tmp_path) as other:
        with Leases(tmp_path) as one:
            assert one.take("a")
        assert other.take("a")


def die_holding(folder: Path) -> None:
    leases = Leases(folder, beat=0.05)
    leases.__enter__()
    leases.take("a")
    os._exit(0)


def test_what_a_dead_process_held_is_free_at_once_here_and_after_a_while_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "here", tmp_path / "elsewhere"):
        process = multiprocessing.get_context("fork").Process(target=die_holding, args=(folder,))
        process.start()
        process.join()
    with Leases(tmp_path / "here") as leases:
        assert leases.take("a")
    monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
    with Leases(tmp_path / "elsewhere", silence=0.5) as leases:
        assert not leases.take("a")
        time.sleep(0.7)
        assert leases.take("a")


def test_a_slow_owner_that_lives_keeps_its_lease(tmp_path: Path) -> None:
    with Leases(tmp_path, beat=0.05) as slow, Leases(tmp_path, silence=0.4) as other:
        assert slow.take("a")
        time.sleep(0.8)
        assert not other.take("a")


def grab(folder: Path, start: Any, results: Any) -> None:
    with Leases(folder) as leases:
        start.wait()
        results.put([key for key in map(str, range(200)) if leases.take(key)])
        start.wait()


def test_many_processes_never_hold_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    made = [context.Process(target=grab, args=(tmp_path, start, results)) for _ in range(3)]
    for process in made:
        process.start()
    got = [key for _ in made for key in results.get(timeout=60)]
    for process in made:
        process.join()
    assert sorted(got) == sorted(map(str, range(200)))
