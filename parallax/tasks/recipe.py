"""What makes two runs the same run: all of the configuration that changes the result, the data and the base model.

`run_key` names a run that can be gone on with or be called finished; the code is named beside it (`code_digest`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from parallax.records.fingerprint import file_digest, fingerprint
from parallax.settings.places import PACKAGES as ROOT

NOT_PART_OF_THE_RECIPE = (
    "task",
    "run",
    "runs",
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
CODE = ("run.py", "parallax", "lightning_modules", "datamodules", "augment")

SHARING = (
    "devices",
    "num_nodes",
    "strategy",
    "num_workers",
    "checkpoint",
    "fsdp",
    "deepspeed",
)  # of the trainer: a run goes on with others


def run_key(config: Mapping[str, Any]) -> str:
    """Names the run of a resolved configuration: its task, its recipe, the bytes of its data and of its weights.

    Folders of caches and of the repository do not count, nor does how many processes share the work in which way.
    """
    kept = {name: value for name, value in config.items() if name not in NOT_PART_OF_THE_RECIPE}
    model = {name: value for name, value in kept["model"].items() if name != "path" or not Path(str(value)).is_dir()}
    facts = {
        "task": config.get("task"),
        "recipe": {**kept, "model": model},
        "files": data_digests(config),
        "weights": model_digests(config),
    }
    return fingerprint(_without_places(facts, str((config.get("paths") or {}).get("root") or ROOT)))


def model_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each weight file of the base model and of the adapter it starts from, where these are local folders."""
    folders = {"model": config["model"]["path"], "adapter": config.get("adapter")}
    return {
        f"{name}/{path.name}": _digest(path)
        for name, folder in folders.items()
        if folder and Path(str(folder)).is_dir()
        for path in sorted(Path(str(folder)).glob("*.safetensors"))
    }


def data_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each file that a key `path` or `…_path` points at; of a folder, the names and sizes of what is in it."""
    kept = {name: value for name, value in config.items() if name not in (*NOT_PART_OF_THE_RECIPE, "model")}
    return {key: _content(Path(value).expanduser()) for key, value in sorted(_paths(kept))}


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Names the source of this program: a change of any line gives another one."""
    files = [ROOT / top for top in CODE if (ROOT / top).is_file()]
    files += [path for top in CODE for path in (ROOT / top).rglob("*.py")]
    return fingerprint({str(path.relative_to(ROOT)): file_digest(path) for path in sorted(files)})


def _without_places(value: object, root: str) -> Any:
    """Without cache folders, and with paths below the repository written from its top: a moved repository is the same."""
    if isinstance(value, Mapping):
        gone = ("cache_dir", *(SHARING if "strategy" in value else ()))
        return {key: _without_places(item, root) for key, item in value.items() if key not in gone}
    if isinstance(value, list | tuple):
        return [_without_places(item, root) for item in value]
    if isinstance(value, str) and os.path.isabs(root) and value.startswith(root.rstrip("/") + "/"):
        return value[len(root.rstrip("/")) + 1 :]
    return value


def _paths(value: object, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, str) and (key == "path" or str(key).endswith("_path")) and item:
                yield f"{at}{key}", item
            else:
                yield from _paths(item, f"{at}{key}.")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _paths(item, f"{at}{place}.")


def _content(path: Path) -> str:
    try:
        if path.is_file():
            return _digest(path)
        if path.is_dir():
            return fingerprint(sorted(_listing(path)))
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return "not a file here"


def _listing(folder: Path) -> Iterator[list[Any]]:
    for here, folders, files in os.walk(folder):
        folders.sort()
        for name in files:
            file = Path(here, name)
            size = file.stat().st_size if file.exists() else -1
            yield [os.fsencode(file.relative_to(folder)).decode("utf-8", "backslashreplace"), size]


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_at(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _digest_at(path: str, modified_ns: int, size: int) -> str:
    return file_digest(path)
