"""What a run will write is known before it begins, and a disk too small or a folder that cannot be written is refused in time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig

from parallax.tasks import run_task
from parallax.tasks.disk_room import ALWAYS, MIB, NoRoom, check_room, check_writable, needed_in_run_folder
from tests import typed

STAGE = typed.stage(trainer={"checkpoint": {"keep": 2}}, pairs={"refresh": "never"})
PLAIN: dict[str, Any] = {"export": {"merged": False}, "model": {"dtype": "bfloat16"}}


def test_what_is_needed_follows_from_what_is_trained_and_kept() -> None:
    needed = needed_in_run_folder(PLAIN, [STAGE], 10_000_000, 7_000_000_000)
    assert needed == {"checkpoints": 3 * 3 * 4 * 10_000_000, "adapters": 4 * 10_000_000, "logs and report": ALWAYS}
    rebuilt = needed_in_run_folder(PLAIN, [replace(STAGE, pairs=typed.pairs(refresh="epoch"))], 10_000_000, 0)
    assert (
        rebuilt["checkpoints"] - needed["checkpoints"] == 3 * 4 * 10_000_000
    )  # the state in which the pairs were made
    merged = needed_in_run_folder({**PLAIN, "export": {"merged": True}}, [STAGE], 1, 7_000_000_000)
    assert merged["merged model"] == 14_000_000_000


def test_too_little_room_is_said_with_what_takes_it_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * MIB))
    check_room(tmp_path / "not there yet", {"checkpoints": 99 * MIB}, "paths.output_dir")
    words = r"about 150 MiB \(checkpoints 140 MiB, adapters 10 MiB\) and 100 MiB are free there; free 50 MiB more"
    with pytest.raises(NoRoom, match=words):
        check_room(tmp_path, {"adapters": 10 * MIB, "checkpoints": 140 * MIB}, "paths.output_dir")


def test_a_folder_that_cannot_be_written_is_named_by_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable({"paths.cache_dir": tmp_path / "new" / "cache"})
    assert not list((tmp_path / "new" / "cache").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(
        NoRoom, match=r"paths\.cache_dir=.*/file cannot be written .* choose another folder with paths\.cache_dir"
    ):
        check_writable({"paths.cache_dir": tmp_path / "file"})

    def read_only(self: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(NoRoom, match="Read-only file system"):
        check_writable({"paths.cache_dir": tmp_path})


def test_a_run_is_refused_before_it_evaluates_or_builds_anything(
    tmp_path: Path, compose_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parallax.tasks.disk_room.shutil.disk_usage", lambda path: SimpleNamespace(free=10 * MIB))
    cfg = compose_config(
        "logger=none", "trainer=cpu", f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}"
    )
    with pytest.raises(NoRoom, match="are free there"):
        run_task(cfg)
    assert not (tmp_path / "cache" / "candidates").exists() and not (tmp_path / "run" / "stages").exists()
