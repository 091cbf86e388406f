"""Is there room for what a run will write? Asked before anything long begins, for the run folder and the cache."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parallax.settings.groups import Stage

MIB = 2**20
ALWAYS = 64 * MIB  # logs, curves, report, answers of a few thousand samples
COPIES = 3  # of every trained number in a checkpoint: its value and the optimiser's two moments
BYTES = 4  # trained numbers are kept in float32
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file became larger than this process may write",
}


class NoRoom(RuntimeError):
    """The run would not fit on the disk, or a folder cannot be written. The message says what is needed, and what helps."""


def check_writable(folders: Mapping[str, Path | str]) -> None:
    """Write and remove a file in each folder (by the key that names it). Raises `NoRoom` with advice when that fails.

    A disk that is full is no fault of the folder's: the `OSError` then comes as it is.
    """
    for key, folder in folders.items():
        path = Path(folder).expanduser()
        mark = path / f".tmp-{uuid.uuid4().hex}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            mark.write_bytes(b"room?")
            mark.unlink()
        except OSError as error:
            mark.unlink(missing_ok=True) if path.is_dir() and os.access(path, os.W_OK) else None
            if error.errno in FULL:
                raise
            raise NoRoom(
                f"{key}={folder} cannot be written ({error.strerror or error}); make it writable, or choose another folder with "
                f"{key}=…"
            ) from error


def needed_in_run_folder(
    config: Mapping[str, Any], stages: Sequence[Stage], trained: int, all_numbers: int
) -> dict[str, int]:
    """Bytes by purpose: an upper estimate of what a run leaves in its folder.

    Args:
        stages: the planned stages.
        trained: numbers that are trained.
        all_numbers: numbers of the whole model, for a merged copy.
    """
    checkpoint = COPIES * BYTES * trained
    kept = 0
    for stage in stages:
        kept += stage.trainer.checkpoint.keep + (stage.pairs.refresh != "never")
    needed = {
        "checkpoints": (kept + 1) * checkpoint,  # the newest is whole before the oldest goes
        "adapters": len(stages) * BYTES * trained,
        "logs and report": ALWAYS,
    }
    if (config.get("export") or {}).get("merged"):
        needed["merged model"] = all_numbers * (2 if config["model"].get("dtype") in ("bfloat16", "float16") else BYTES)
    return needed


def check_room(folder: Path | str, needed: Mapping[str, int], key: str, advice: str = "") -> None:
    """Raise `NoRoom` when the file system of `folder` has less free than all of `needed` (bytes by purpose)."""
    place = Path(folder).expanduser().absolute()
    while not place.exists():
        place = place.parent
    total, free = sum(needed.values()), shutil.disk_usage(place).free
    if total > free:
        parts = ", ".join(f"{name} {_shown(size)}" for name, size in sorted(needed.items(), key=lambda item: -item[1]))
        raise NoRoom(
            f"{key}={folder} needs about {_shown(total)} ({parts}) and {_shown(free)} are free there; free "
            f"{_shown(total - free)} more, or choose another {key}{advice}"
        )


def _shown(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / MIB:,.0f} MiB"
