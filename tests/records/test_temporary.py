"""Named temporary files go with their process; those of a process that was killed go with the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parallax.records.temporary import LOCK, PREFIX, YOUNG, remove_left_behind, temporary_folder

HOLDS = """
import os, sys, time
from parallax.records.temporary import temporary_folder
(temporary_folder() / "rows.jsonl").write_text("rows")
worker = os.fork() if "worker" in sys.argv else 1
print(temporary_folder() if worker else "", flush=True)
time.sleep(60)
"""


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def started(temp: Path, *words: str) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a temporary folder, and that folder."""
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDS, *words], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TMPDIR": str(temp)},
    )  # fmt: skip
    assert program.stdout is not None
    return program, Path(next(line for line in program.stdout if line.strip()).strip())


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(temp: Path) -> None:
    (killed, left), (living, kept) = started(temp), started(temp)
    own = temporary_folder()
    remove_left_behind()
    assert left.is_dir() and kept.is_dir() and own.is_dir()
    killed.kill()
    killed.wait()
    remove_left_behind()
    assert not left.exists() and (kept / "rows.jsonl").is_file() and own.is_dir()
    living.terminate()
    living.wait()


def test_a_worker_that_outlives_the_process_keeps_its_files(temp: Path) -> None:
    program, left = started(temp, "worker")
    program.kill()
    program.wait()
    remove_left_behind()
    assert left.is_dir()
    os.killpg(program.pid, signal.SIGKILL)
    for _ in range(200):
        remove_left_behind()
        if not left.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{left} is still there")


def test_what_is_no_folder_of_a_dead_process_is_left_alone(
    temp: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / LOCK).touch()
    (temp / f"{PREFIX}link").symlink_to(elsewhere)
    being_made, forgotten = temp / f"{PREFIX}new", temp / f"{PREFIX}old"
    being_made.mkdir()
    forgotten.mkdir()
    os.utime(forgotten, (0, time.time() - 2 * YOUNG))
    (temp / f"{PREFIX}file").touch()
    os.mkfifo(temp / f"{PREFIX}pipe")
    remove_left_behind()
    assert being_made.is_dir() and not forgotten.exists() and (elsewhere / LOCK).is_file()
