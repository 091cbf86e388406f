"""`run_state.json` and `manifest.json`: what a run folder holds a run of, how far it is, and where a stopped run goes on."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parallax.records.atomic import atomic_write_json
from parallax.records.fingerprint import file_digest
from parallax.reports.environment import environment
from parallax.tasks.recipe import code_digest, data_digests, model_digests

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


MANIFEST = "manifest.json"


class RunManifest:
    """What a run has done so far. Several processes read it and note the same; the first one writes.

    Args:
        folder: the run folder; a manifest that is there is gone on with.
        method, rounds: of the run.
        made_with: versions of packages, digests of code, data files and base model (`made_with`).
    """

    def __init__(self, folder: Path, *, method: str, rounds: int, made_with: Mapping[str, Any] | None = None) -> None:
        self.folder, self.path = folder, folder / MANIFEST
        self.method, self.rounds, self.made_with = method, rounds, dict(made_with or {})
        self.stages: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            self.stages = {entry["name"]: entry for entry in json.loads(self.path.read_text("utf-8"))["stages"]}

    def finished(self, name: str) -> dict[str, Any] | None:
        """The entry of a stage that is whole: noted down, its weights there and unchanged since."""
        entry = self.stages.get(name)
        if entry is None or weights_of(self.folder / entry["adapter"]) != entry["adapter_files"]:
            return None
        return entry

    def note(self, name: str, **facts: Any) -> None:
        """Enter a stage; what was noted of it and of later ones before is gone."""
        from parallax.models import processes  # loads torch; who only reads a state needs none

        names = list(self.stages)
        if name in names:
            self.stages = {known: self.stages[known] for known in names[: names.index(name)]}
        weights = weights_of(self.folder / facts["adapter"])
        self.stages[name] = {"name": name, **facts, "adapter_files": weights}
        if not processes.is_first():
            return
        content = {
            "method": self.method, "rounds": self.rounds, "made_with": self.made_with, "stages": list(self.stages.values())
        }  # fmt: skip
        atomic_write_json(self.path, content)


def made_with(config: Mapping[str, Any]) -> dict[str, Any]:
    """All that the result follows from, beside the configuration: versions, and SHA-256 digests of code, data and base model."""
    facts = environment()
    return {
        "code": code_digest(),
        "commit": facts["git"]["commit"],
        "data": data_digests(config),
        "model": model_digests(config),
        "python": facts["python"],
        "packages": facts["packages"],
    }


def weights_of(folder: Path) -> dict[str, str]:
    """Digest of each weight file of an adapter or model folder, by name; empty when there is none."""
    return {file.name: file_digest(file) for file in sorted(folder.glob("*.safetensors"))}
