"""`manifest.json` of a run: which policy made which file, stage by stage, and so where a stopped run goes on.

A stage is entered once it is whole. Policies are named by their fingerprint (`Policy.fingerprint`), folders relative to the run
folder, so that the folder can be moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parallax.models import processes
from parallax.records.atomic import atomic_write_json
from parallax.records.fingerprint import file_digest
from parallax.reports.environment import environment
from parallax.tasks.recipe import code_digest, data_digests, model_digests

FILE = "manifest.json"


class RunManifest:
    """What a run has done so far. Several processes read it and note the same; the first one writes.

    Args:
        folder: the run folder; a manifest that is there is gone on with.
        method, rounds: of the run.
        made_with: versions of packages, digests of code, data files and base model (`made_with`).
    """

    def __init__(self, folder: Path, *, method: str, rounds: int, made_with: Mapping[str, Any] | None = None) -> None:
        self.folder, self.path = folder, folder / FILE
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
