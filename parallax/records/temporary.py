"""Temporary files that have names: they lie in one folder of their process and go with it.

A process that is killed cannot remove its folder, so the next start does. The lock in it is held as long as the process lives, or
a worker that was forked from it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

PREFIX = "parallax_tmp_"
LOCK = "in_use"
YOUNG = 3600.0  # seconds for which a folder without a lock is taken for one that is being made


def temporary_folder() -> Path:
    """This process's folder, below the system's for temporary files. A forked process has one of its own."""
    return _folder(os.getpid(), tempfile.gettempdir())


def remove_left_behind() -> None:
    """Remove what this user's killed processes left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink() and _is_left_behind(folder):
                shutil.rmtree(folder)


@cache
def _folder(process: int, below: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=below))
    atexit.register(_remove, folder, process)
    new = folder / f"{LOCK}.new"
    with suppress(OSError):  # a file system without locks: nobody can take this one either
        fcntl.flock(os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)
    new.rename(folder / LOCK)  # it is seen only once it is locked
    return folder


def _is_left_behind(folder: Path) -> bool:
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return time.time() - folder.lstat().st_mtime > YOUNG
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
