"""What the comments in conf/*.yaml say about each key: the one place where meanings and units are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from parallax.settings.places import CONF

_LINE = re.compile(r"^(?P<indent> *)(?P<dash>- )?(?P<key>[A-Za-z_][\w@/]*|'[^']+'):(?P<rest>.*)$")


@dataclass(frozen=True, slots=True)
class Described:
    """A key as it stands in a file of conf/."""

    key: str  # dotted, from the root of the configuration
    value: str  # as written; "" for a mapping
    comment: str  # without the `#`; "" when there is none
    file: str  # relative to conf/


def described_keys(path: Path, conf: Path = CONF) -> list[Described]:
    """All keys of one file, `defaults` and `_target_` left out. A mapping's own comment counts for it, not for its keys."""
    lines = path.read_text(encoding="utf-8").splitlines()
    relative = path.relative_to(conf)
    prefix = _package(lines, relative)
    found: list[Described] = []
    above: list[tuple[int, str]] = []  # indentation and key of the mappings around this line
    block: int | None = None  # indentation of the key whose text of several lines (| or >) is being passed over
    for line in lines:
        if block is not None and (not line.strip() or len(line) - len(line.lstrip()) > block):
            continue
        block = None
        match = _LINE.match(line)
        if match is None:
            continue
        indent = len(match["indent"]) + (2 if match["dash"] else 0)
        while above and above[-1][0] >= indent:
            above.pop()
        value, comment = _split(match["rest"])
        block = indent if re.fullmatch(r"[|>][+-]?", value) else None
        names = [*prefix, *(name for _, name in above), match["key"]]
        above.append((indent, match["key"]))
        inside = names[len(prefix)]
        if inside != "defaults" and names[-1] != "_target_" and inside != "hydra":
            found.append(Described(".".join(names), value, comment, str(relative)))
    return found


@cache
def meanings(about: str = "") -> dict[str, str]:
    """Dotted key → its comment, from the files of conf/ that speak of `about`: of all by default, which takes longest.

    Where several files describe a key, the file with the shortest path wins.
    """
    found: dict[str, str] = {}
    files = sorted(CONF.rglob("*.yaml"), key=lambda file: (file.parts.count("experiment"), len(file.parts), str(file)))
    for file in files:
        unasked = file.relative_to(CONF).parts[0] in ("hydra", "local") or about not in file.read_text("utf-8")
        for described in () if unasked else described_keys(file):
            if described.comment:
                found.setdefault(described.key, described.comment)
    return found


def meaning_of(key: str, plain: dict[str, Any]) -> str:
    """What conf/ says about a key of this configuration, "" for nothing. A stage's own key means what the group's does."""
    node: Any = plain
    last = f"{key.rpartition('.')[2]}:"
    if key not in meanings(last) and (stage := re.match(r"stages\.([^.]+)\.(\w+)\.", key)) is not None:
        key = key.removeprefix(f"stages.{stage[1]}.")
        own = (plain.get("stages") or {}).get(stage[1])
        node = (
            own
            if isinstance(own, dict) and isinstance(own.get(stage[2]), dict) and "_target_" in own[stage[2]]
            else plain
        )
    group = key.split(".")[0]
    target = node[group].get("_target_") if isinstance(node.get(group), dict) else None
    known = [
        described
        for file in (sorted((CONF / group).glob("*.yaml")) if target else ())
        if f"_target_: {target}\n" in file.read_text(encoding="utf-8")
        for described in described_keys(file)
        if described.key == key and described.comment
    ]
    open_ones = [
        described for described in known if described.value == "???"
    ]  # the general choice, before the special ones
    if target:
        return (open_ones or known)[0].comment if known else ""
    return meanings(last).get(key, "")


def title(path: Path) -> str:
    """The first comment line of a file: what the choice is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if line.startswith("#"):
            return line.lstrip("# ").strip()
        break
    return ""


def _package(lines: list[str], relative: Path) -> list[str]:
    if any(line.strip() == "# @package _global_" for line in lines):
        return []
    return list(relative.parts[:-1])


def _split(rest: str) -> tuple[str, str]:
    if rest.lstrip().startswith("#"):
        return "", rest.lstrip().lstrip("#").strip()
    value, mark, comment = rest.partition("  #")
    return value.strip(), comment.strip() if mark else ""
