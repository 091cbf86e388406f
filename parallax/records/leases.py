"""Who is working on what, among processes that share a folder and know nothing else of each other.

    leases/<key>            a file whose content names an owner; made by whoever comes first
    leases/owner-<name>     touched by that owner every few seconds as long as it lives

A lease whose owner has died on this machine, or has not been heard of for a while, belongs to nobody. Ages are compared by the
folder's own clock, so machines whose clocks differ may share it. Leases save work and guard nothing: what they are about is
safe to do twice.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

BEAT = 5.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which an owner counts as gone


class Leases:
    """This process's leases in a folder. A context manager: on leaving, all of them are given back.

    Args:
        folder: shared by all who should not do the same work.
        silence: seconds after which an owner counts as gone.
    """

    def __init__(self, folder: Path | str, *, beat: float = BEAT, silence: float = SILENCE) -> None:
        self.folder, self.beat, self.silence = Path(folder), beat, silence
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._owner = self.folder / f"owner-{self.name}"
        self._held: set[str] = set()
        self._over = threading.Event()
        self._alive: threading.Thread | None = None

    def __enter__(self) -> Leases:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._owner.touch()
        self._alive = threading.Thread(target=self._live, daemon=True)
        self._alive.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._alive is not None
        self._alive.join()
        self.give_back(list(self._held))
        self._owner.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()  # if it is empty

    def take(self, key: str) -> bool:
        """Whether the work named `key` is ours now: nobody had it, or whoever had it is gone."""
        if key in self._held:
            return True
        path = self.folder / key
        for _ in range(2):
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if not self._is_left_behind(path):
                    return False
                path.unlink(missing_ok=True)
                continue
            with os.fdopen(handle, "w") as file:
                file.write(self.name)
            self._held.add(key)
            return True
        return False

    def give_back(self, keys: Iterable[str]) -> None:
        """Work that is done, or that we leave to others."""
        for key in keys:
            if key in self._held:
                self._held.discard(key)
                (self.folder / key).unlink(missing_ok=True)

    def _is_left_behind(self, path: Path) -> bool:
        try:
            owner = path.read_text()
            written = path.stat().st_mtime
        except FileNotFoundError:
            return True  # given back this very moment
        if owner and _has_died_here(owner):
            return True
        try:
            last = (self.folder / f"owner-{owner}").stat().st_mtime if owner else written
        except FileNotFoundError:
            last = written  # an owner that has gone leaves no leases, but one that was killed may have lost its file
        return self._now() - last > self.silence

    def _now(self) -> float:
        """The time by the folder's clock."""
        self._owner.touch()
        return self._owner.stat().st_mtime

    def _live(self) -> None:
        while not self._over.wait(self.beat):
            with suppress(OSError):
                self._owner.touch()


def _has_died_here(owner: str) -> bool:
    """Whether an owner was a process of this machine that is no more: nobody has to wait for its silence then."""
    host, pid, _ = owner.rsplit("-", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


def wait_a_little(tried: int) -> None:
    """Between two looks at what others are doing: a twentieth of a second at first, two seconds later on."""
    time.sleep(min(2.0, 0.05 * 2 ** min(tried, 6)))
