"""`run_state.json`: what a run folder holds a run of, and how far that run is.

States: running, finished, interrupted (it was asked to stop), failed. A run that says it is running and whose folder nobody holds
was killed.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from parallax.records.atomic import atomic_write_json

FILE = "run_state.json"
DATE, TIME = r"\d{4}-\d\d-\d\d", r"\d\d-\d\d-\d\d"


@dataclass(frozen=True, slots=True)
class RunState:
    """One run. Times are local, as people read them; `moment` is for ordering."""

    key: str  # `recipe.run_key`
    code: str  # `recipe.code_digest`
    task: str
    state: str  # running | finished | interrupted | failed
    started: str
    moment: float  # seconds since 1970 of the newest start
    ended: str | None = None
    why: str | None = None  # of a run that failed: its sentence

    @classmethod
    def new(cls, key: str, code: str, task: str) -> RunState:
        return cls(key, code, task, "running", now(), time.time())

    def write(self, folder: Path) -> None:
        atomic_write_json(folder / FILE, asdict(self))

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    def words(self) -> str:
        """How the run ended, to be read after "which"."""
        if self.state == "running":
            return "was killed"
        return {"interrupted": "was stopped", "failed": "failed", "finished": "finished"}[self.state]


def state_of(folder: Path) -> RunState | None:
    """The state of a run folder, or None for a folder that has none or one that cannot be read."""
    try:
        return RunState(**json.loads((folder / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the results of the run of this key."""
    state = state_of(folder)
    return state is not None and state.finished and state.key == key and (folder / "results.json").is_file()


def clear_other_run(folder: Path, key: str) -> bool:
    """Remove a folder that holds a run of another key, which is to be made anew. Returns whether there was one."""
    state = state_of(folder)
    if state is None or state.key == key:
        return False
    shutil.rmtree(folder)
    return True


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def runs_beside(folder: Path) -> Iterator[tuple[Path, RunState]]:
    """Every run where runs like this one lie, the newest first.

    `outputs/<date>/<time>` and `multirun/<date>/<time>/<job>` are searched over all dates; other folders among their siblings.
    """
    parts, above, depth = folder.parts, folder.parent, 1
    if len(parts) > 2 and re.fullmatch(DATE, parts[-2]) and re.fullmatch(TIME, parts[-1]):
        above, depth = folder.parents[1], 2
    elif len(parts) > 3 and re.fullmatch(DATE, parts[-3]) and re.fullmatch(TIME, parts[-2]):
        above, depth = folder.parents[2], 3
    found = [(path.parent, state_of(path.parent)) for path in above.glob("*/" * depth + FILE)]
    known = [(path, state) for path, state in found if state is not None and path != folder]
    yield from sorted(known, key=lambda item: item[1].moment, reverse=True)
