"""One run folder, one run: a lock that the system takes back by itself when its process is gone.

The lock is a POSIX record lock on `run.lock`. Forked workers do not inherit it, and a process that is killed, even by a power
cut, leaves none behind: a stale lock is a file without a lock. Who holds it stands in `run.lock.json`, for people.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parallax.records.atomic import atomic_write_json

LOCK, HOLDER = "run.lock", "run.lock.json"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # a file system that knows no locks

_held_here: set[Path] = set()  # record locks do not keep a process from taking one twice


class FolderInUse(RuntimeError):
    """Another run works in this folder. The message names its process and when it started."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who works in a run folder."""

    pid: int
    host: str
    started: str  # local time, as people read it
    ticks: int | None  # the system's own start time of the process, which tells a reused process id apart

    @classmethod
    def this_process(cls) -> Holder:
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), start_ticks(os.getpid()))

    def alive(self) -> bool | None:
        """Whether that process still runs; None where this machine cannot tell."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.ticks is None or start_ticks(self.pid) == self.ticks

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started}"


def start_ticks(pid: int) -> int | None:
    """When a process started, in the system's ticks since boot; None where there is no /proc or no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


class RunLock:
    """The lock of a run folder; `with RunLock(folder) as lock:`.

    `lock.stale` is the holder who left without unlocking, or None. Raises `FolderInUse`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.stale: Holder | None = None
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        real = self.folder.resolve()
        left = holder_of(real)
        if real in _held_here:
            raise FolderInUse(self._refusal(left))
        self._handle = os.open(real / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(self._handle)
        except BlockingIOError:
            os.close(self._handle)
            raise FolderInUse(self._refusal(left)) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(self._handle)
                raise
            if left is not None and left.alive() is not False:  # no locks here: who is written down counts
                os.close(self._handle)
                advice = f"; if that process is gone, remove {real / HOLDER}" if left.alive() is None else ""
                raise FolderInUse(self._refusal(left) + advice) from error
        self.stale = left
        _held_here.add(real)
        atomic_write_json(real / HOLDER, asdict(Holder.this_process()))
        return self

    def __exit__(self, *_: Any) -> None:
        real = self.folder.resolve()
        if self._handle is not None:
            (real / HOLDER).unlink(missing_ok=True)
            os.close(self._handle)  # which unlocks
            self._handle = None
        _held_here.discard(real)

    def _refusal(self, holder: Holder | None) -> str:
        who = str(holder) if holder is not None else "another process"
        return f"{self.folder} is in use by {who}; wait for it, stop it, or choose another folder"


def holder_of(folder: Path) -> Holder | None:
    """Who is written down as working in the folder, whether it still does or not."""
    try:
        return Holder(**json.loads((folder / HOLDER).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def in_use(folder: Path) -> Holder | None:
    """Who works in the folder right now, or None. Takes nothing."""
    holder, real = holder_of(folder), folder.resolve()
    if real in _held_here:
        return holder
    try:
        handle = os.open(real / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        _lock(handle)
    except BlockingIOError:
        return holder or Holder(0, "?", "?", None)
    except OSError:
        return holder if holder is not None and holder.alive() is not False else None
    finally:
        os.close(handle)
    return None


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError as error:  # no POSIX system
        raise OSError(errno.ENOSYS, "no record locks here") from error
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # some systems say EACCES where others say EAGAIN
        raise BlockingIOError(error.errno, str(error)) from error
