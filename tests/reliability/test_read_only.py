"""A cache on a file system that cannot be written: refused in words, with the key to change, before anything long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import Injected
from tests.reliability.program import SMALL, disk_library, run

pytestmark = pytest.mark.skipif(disk_library() is None, reason="needs Linux and a C compiler for disk.c")


@pytest.mark.parametrize("task", ["align", pytest.param("evaluate", marks=pytest.mark.slow), "build_pairs"])
def test_a_cache_that_cannot_be_written_is_named_with_its_key(tmp_path: Path, injected: Injected, task: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    done = run((*SMALL, f"task={task}"), tmp_path, environment={"PARALLAX_DISK_READ_ONLY": str(cache)})
    assert done.status == 1 and "Traceback" not in done.screen, done.screen
    assert "paths.cache_dir" in done.screen and "Read-only file system" in done.screen
    assert "choose another folder with paths.cache_dir=…" in " ".join(done.screen.split())
    assert "evaluating" not in done.screen and "stage" not in done.screen and not list(cache.iterdir())
    injected("cache that cannot be written", told=1, says="refused before anything long, with the key to change")


def test_with_another_cache_the_same_command_runs(tmp_path: Path, injected: Injected) -> None:
    (tmp_path / "cache").mkdir()
    other = f"paths.cache_dir={tmp_path / 'other'}"
    done = run(
        (*SMALL, "task=build_pairs", other), tmp_path, environment={"PARALLAX_DISK_READ_ONLY": str(tmp_path / "cache")}
    )
    assert done.status == 0, done.screen
    assert not list((tmp_path / "cache").iterdir()) and (tmp_path / "other" / "pairs").is_dir()
    injected("cache that cannot be written", used=1, says="another paths.cache_dir does")
