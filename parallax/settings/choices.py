"""Groups of conf/ and their choices, as files on disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from parallax.settings.comments import CONF

FOLLOWING = ("on_data", "on_model")  # groups that nobody chooses


@cache
def groups(conf: Path = CONF) -> tuple[str, ...]:
    """Names of the groups a user chooses from, sorted. `on_data` and `on_model` follow from method, data and model."""
    found = {folder.name for folder in conf.iterdir() if folder.is_dir() and any(folder.glob("*.yaml"))}
    return tuple(sorted(found - {"hydra", "local", *FOLLOWING}))


def choices(group: str, folders: Sequence[Path] = (CONF,)) -> list[str]:
    """Choices of a group, sorted; empty when there is no such group."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def groups_with(choice: str) -> list[str]:
    """Groups that offer a choice of this name."""
    return [group for group in groups() if choice in choices(group)]


@cache
def named_targets(group: str) -> dict[str, str]:
    """Name of each choice of a group that is a part → its `_target_`."""
    found = {}
    for file in (CONF / group).glob("*.yaml"):
        target = re.search(r"^_target_: *(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        if target:
            found[file.stem] = target[1]
    return found


@cache
def named_node(group: str, name: str) -> dict[str, Any]:
    """A choice of a group that is a part, as its file says it: `_target_` and values. Empty where there is no such file."""
    file = CONF / group / f"{name}.yaml"
    said = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file.is_file() else {}
    return {str(key): value for key, value in said.items()} if isinstance(said, dict) else {}
