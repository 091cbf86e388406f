"""One run folder, one run: the second is refused with the first's process and start; a lock without its process is stale."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parallax.records.run_lock import HOLDER, FolderInUse, Holder, RunLock, holder_of, in_use
from tests.faults import Injected

HOLDING = """
import sys, time
sys.path.insert(0, {root!r})
from parallax.records.run_lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
ROOT = Path(__file__).resolve().parents[2]


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDING.format(root=str(ROOT)), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_with_the_firsts_process_and_start_time(tmp_path: Path, injected: Injected) -> None:
    first = hold(tmp_path)
    try:
        holder = in_use(tmp_path)
        assert holder is not None and holder.pid == first.pid and holder.alive()
        with (
            pytest.raises(FolderInUse, match=rf"is in use by process {first.pid} on .*, started {holder.started}"),
            RunLock(tmp_path),
        ):
            raise AssertionError("two runs in one folder")
        assert holder_of(tmp_path) == holder, "a refused run has taken the name down"
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert in_use(tmp_path) is None
    with RunLock(tmp_path) as lock:
        assert lock.stale == holder and lock.stale.alive() is False
    assert not (tmp_path / HOLDER).exists()
    injected("second run in a folder", told=1, says="refused with the first one's process and start time")
    injected("lock of a killed process", told=1, says="recognised and taken over, in a sentence")


def test_a_process_does_not_take_a_folder_twice(tmp_path: Path) -> None:
    with RunLock(tmp_path) as first:
        assert first.stale is None
        with pytest.raises(FolderInUse, match=f"process {os.getpid()}"), RunLock(tmp_path / ".." / tmp_path.name):
            raise AssertionError
    with RunLock(tmp_path):
        assert in_use(tmp_path) is not None


def test_a_reused_process_id_is_no_holder(tmp_path: Path) -> None:
    mine = Holder.this_process()
    assert mine.alive()
    assert not Holder(mine.pid, mine.host, mine.started, (mine.ticks or 0) + 1).alive()
    assert Holder(mine.pid, "another machine", mine.started, None).alive() is None


def test_where_the_file_system_knows_no_locks_the_written_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("parallax.records.run_lock._lock", no_locks)
    mine = Holder.this_process()
    written = {"pid": mine.pid, "host": "another machine", "started": "yesterday", "ticks": None}
    (tmp_path / HOLDER).write_text(json.dumps(written))
    with pytest.raises(FolderInUse, match="if that process is gone, remove"), RunLock(tmp_path):
        raise AssertionError
    (tmp_path / HOLDER).write_text(json.dumps({**written, "host": mine.host, "pid": 2**22 - 3}))
    with RunLock(tmp_path) as lock:
        assert lock.stale is not None and lock.stale.pid == 2**22 - 3
