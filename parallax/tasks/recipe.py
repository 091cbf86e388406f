"""What makes two runs the same run: everything of the configuration that changes the result, and the base model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parallax.records.atomic import atomic_write_text
from parallax.records.fingerprint import file_digest, fingerprint

NOT_PART_OF_THE_RECIPE = (
    "task",
    "study",
    "sweep",
    "sweep_jobs",
    "paths",
    "hydra",
    "resume",
    "logger",
    "tags",
    "optimized_metric",
    "experiment",
)


def recipe_key(plain: Mapping[str, Any]) -> str:
    """Names the resolved configuration `plain`. Folders of caches and of the repository do not count; the weights do."""
    kept = {name: value for name, value in plain.items() if name not in NOT_PART_OF_THE_RECIPE}
    folder = Path(str(plain["model"]["path"]))
    weights = [file_digest(path) for path in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []
    return fingerprint({"recipe": _without_places(kept), "weights": weights})


def claim_folder(plain: Mapping[str, Any]) -> Path:
    """The run folder, marked with the run's key: the folder to resume, else the one Hydra made.

    With `resume=auto` the same command goes on in the folder as it finds it.

    Raises:
        FileExistsError: the folder holds a run of another configuration, or any run with `resume=never`.
    """
    resume = str(plain["resume"])
    folder = Path(plain["paths"]["output_dir"]) if resume in ("auto", "never") else Path(resume)
    mark, key = folder / "recipe_key", recipe_key(plain)
    if (folder / "stages").exists():
        advice = "choose another paths.output_dir, or remove the folder"
        if resume == "never":
            raise FileExistsError(f"resume=never, and {folder} holds a run already; {advice}")
        if mark.is_file() and mark.read_text().strip() != key:
            raise FileExistsError(f"{folder} holds a run of another configuration (see its config.yaml); {advice}")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(mark, key + "\n")
    return folder


def is_finished(folder: Path, plain: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the results of this very configuration."""
    mark = folder / "recipe_key"
    return mark.is_file() and mark.read_text().strip() == recipe_key(plain) and (folder / "results.json").is_file()


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items() if key not in ("cache_dir", "path")}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return value
