"""`python run.py …` in processes of its own that start in a moment: forks of one that has imported everything."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "data.size=14", "trainer.batch_size=4", "trainer.micro_batch_size=4", "trainer.max_epochs=1", "evaluation.scenes=4",
    "evaluation.pope_scenes=1", "evaluation.bootstrap=20", "trainer=cpu", "logger=none", "generation.max_new_tokens=32",
    "generation.batch_size=8", "trainer.checkpoint.every_n_steps=1",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (negative for a signal) and what it wrote on its screen."""

    status: int
    screen: str
    seconds: float


class Program:
    """One process that runs the program in `folder`.

    Args:
        words: of the command line.
        folder: the working directory; outputs/ and the cache lie in it.
        file_size: most bytes that any one file may have; None for no limit.
        environment: more variables, such as those of disk.c.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        file_size: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.screen = folder / f"screen-{time.time_ns()}.txt"
        variables = {"PARALLAX_CACHE": str(folder / "cache"), "PARALLAX_ROOT": str(ROOT), **(environment or {})}
        start = {"words": list(words), "folder": str(folder), "screen": str(self.screen), "variables": variables}
        self.pid = int(_told({"start": {**start, "file_size": file_size}})["pid"])
        self.began = time.monotonic()

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        status: int | None = _told({"ask": self.pid})["status"]
        return status

    def wait(self, timeout: float = 300) -> Ended:
        """Wait for the end; a process that takes longer than `timeout` seconds is killed and is a failure."""
        while (status := self.status) is None:
            if time.monotonic() > self.began + timeout:
                self.signal(signal.SIGKILL)
                raise TimeoutError(f"it still ran after {timeout} s:\n{self.read()}")
            time.sleep(0.01)
        return Ended(status, self.read(), time.monotonic() - self.began)

    def signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def sleep_until(self, seconds: float) -> None:
        """Sleep until so many seconds after the start, or until it has ended by itself."""
        while self.seconds < seconds and self.status is None:
            time.sleep(min(0.02, max(0.0, seconds - self.seconds)))

    def wait_for(self, words: str, timeout: float = 120) -> None:
        """Wait until these words stand on the screen."""
        end = time.monotonic() + timeout
        while words not in self.read():
            if self.status is not None or time.monotonic() > end:
                raise AssertionError(f"{words!r} was never said:\n{self.read()}")
            time.sleep(0.01)

    def read(self) -> str:
        return self.screen.read_text("utf-8", "replace") if self.screen.is_file() else ""


def run(words: Sequence[str], folder: Path, **options: Any) -> Ended:
    """Run the program to its end."""
    return Program(words, folder, **options).wait()


def _told(message: dict[str, Any]) -> dict[str, Any]:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(message) + "\n")
    server.stdin.flush()
    answer: dict[str, Any] = json.loads(server.stdout.readline())
    return answer


@lru_cache(maxsize=1)
def disk_library() -> Path | None:
    """disk.c as a library, for disks that fill up at a given moment; None where there is no compiler for it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    folder = Path(tempfile.mkdtemp(prefix="parallax-disk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return library


@lru_cache(maxsize=1)
def _server() -> subprocess.Popen[str]:
    script, disk = Path(__file__).with_name("fork_server.py"), disk_library()
    server = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **({"LD_PRELOAD": str(disk)} if disk else {})},
    )  # fmt: skip
    atexit.register(server.kill)
    return server
