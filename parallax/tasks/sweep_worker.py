"""A process that runs jobs of a local sweep one after the other, so that imports are paid once.

Its one argument is the process id of the sweep. It reads jobs from standard input, one JSON object a line:
`{"folder": …, "words": [...]}`, and answers each with a line on standard output: `{"folder": …, "reason": ""}`, or why the job
failed. A job is what `python run.py <words>` would do; what it prints goes to `console.log` in its folder. A worker whose sweep
is gone (killed) ends at once: its job would hold its folder, and the same sweep, given again, goes on with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parallax.records.interruption import Interrupted
from parallax.tasks.multirun import FAILURE, note_failure, reason_of
from parallax.tasks.program import main

CONSOLE = "console.log"  # in the job's folder
GLANCE = 0.2  # seconds between two looks at whether the sweep still lives


def serve() -> None:
    """Serve until standard input ends."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True, name="end with the sweep").start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        job = json.loads(line)
        reason = run_one(Path(job["folder"]), [str(word) for word in job["words"]])
        answers.write(json.dumps({"folder": job["folder"], "reason": reason}) + "\n")
        answers.flush()


def run_one(folder: Path, words: list[str]) -> str:
    """Run one job in this process; returns why it failed, or an empty string."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE).unlink(missing_ok=True)
    with _printing_to(folder / CONSOLE):
        try:
            if status := main(words):
                sys.exit(status)
        except Interrupted:  # no failure: it has saved, and is gone on with
            raise
        except SystemExit as end:
            if end.code not in (None, 0):
                error = RuntimeError(_last_line(folder / CONSOLE) or f"it ended with status {end.code}")
                note_failure(folder, error)
                return reason_of(error)
        except Exception as error:
            traceback.print_exc()
            note_failure(folder, error)
            return reason_of(error)
    return ""


def _end_with(parent: int) -> None:
    """End this process when its parent has ended. Every file is whole or absent, so that nothing is damaged."""
    while os.getppid() == parent:
        time.sleep(GLANCE)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Everything this process and its children print goes to the file."""
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)


def _last_line(path: Path) -> str:
    lines = [line.strip(" -") for line in path.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    serve()
