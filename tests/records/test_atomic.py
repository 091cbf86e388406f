"""Files and folders that are whole or absent, even when their writer is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parallax.records.atomic import (
    atomic_file,
    atomic_folder,
    atomic_write_json,
    atomic_write_text,
    remove_leftovers,
)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    atomic_write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_json_is_sorted_and_readable(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", {"b": 1, "a": "\u00fc"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "\u00fc",\n  "b": 1\n}\n'
    atomic_write_json(tmp_path / "b.json", {"loss": [float("nan"), float("inf"), 1.5], "said": "half \ud83d"})
    assert json.loads((tmp_path / "b.json").read_text()) == {"loss": [None, None, 1.5], "said": "half ?"}


def test_of_two_writers_of_one_folder_the_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with atomic_folder(target) as late:
        (late / "file").write_text("late")
        with atomic_folder(target) as early:
            (early / "file").write_text("early")
    assert (target / "file").read_text() == "early" and os.listdir(tmp_path) == ["set"]


WRITER = """
import sys, itertools
from parallax.records.atomic import atomic_write_json
for number in itertools.count():
    atomic_write_json(sys.argv[1], {"number": number, "filling": ["x" * 100] * 2000})
"""


def test_a_killed_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
        deadline = time.monotonic() + 20
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(json.loads(target.read_text())["filling"]) == 2000
        target.unlink()


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a" / ".tmp-1").mkdir(parents=True)
    (tmp_path / "a" / ".tmp-1" / ".tmp-2").write_text("half")
    (tmp_path / ".tmp-3").write_text("half")
    (tmp_path / "a" / "whole").write_text("whole")
    (tmp_path / "outside").mkdir()
    (tmp_path / "a" / ".tmp-link").symlink_to(tmp_path / "outside")
    assert remove_leftovers(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "outside", "whole"]
