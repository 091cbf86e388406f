"""What a run ran with: the resolved configuration, the code's commit, package versions, the machine."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from parallax.records.atomic import atomic_write_text

PACKAGES = (
    "torch", "torchvision", "transformers", "peft", "pytorch-lightning", "hydra-core", "omegaconf", "bitsandbytes",
    "wandb", "numpy", "pillow", "pyarrow", "datasets", "tokenizers", "safetensors",
)  # fmt: skip
_SECRET = re.compile(
    r"(^|_)(api_?key|password|passwd|secret|credentials?)$|(^|_)(auth|access|hf|hub|push)_token$|^token$", re.I
)
REDACTED = "(not shown)"


def write_environment(run_folder: Path | str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Write `config.yaml` (resolved, secrets hidden) and `environment.json` into the run folder; return the latter."""
    import yaml

    folder = Path(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    facts = environment()
    atomic_write_text(
        folder / "config.yaml", yaml.safe_dump(without_secrets(config), sort_keys=False, allow_unicode=True)
    )
    atomic_write_text(folder / "environment.json", json.dumps(facts, indent=2) + "\n")
    return facts


def environment() -> dict[str, Any]:
    """Versions, commit and machine as plain data. Asks no GPU and imports nothing heavy."""
    return {
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "processor_count": os.cpu_count(),
        "command": [Path(sys.argv[0]).name, *(_without_secret_values(word) for word in sys.argv[1:])],
    }


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """`commit` and whether tracked files differ from it (`dirty`); both None outside a repository or without git."""
    folder = folder or Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def without_secrets(value: object) -> Any:
    """Plain data with the values of keys such as `api_key` or `hub_token` hidden (`max_new_tokens` is no secret)."""
    if isinstance(value, Mapping):
        return {
            str(key): REDACTED if _SECRET.search(str(key)) and item not in (None, "") else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


def _without_secret_values(word: str) -> str:
    key, equals, _ = word.partition("=")
    return f"{key}={REDACTED}" if equals and _SECRET.search(key.rsplit(".", 1)[-1].lstrip("+-")) else word


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
