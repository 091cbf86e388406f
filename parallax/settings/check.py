"""Checks a composed configuration before anything slow is imported, and reports all problems at once, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parallax.settings.blame import Problems
from parallax.settings.combinations import combination_problems
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Node
from parallax.settings.needed import missing_problems
from parallax.settings.rules import Rule
from parallax.settings.schema import STAGE_GROUPS, root, rule_at, stage_rule
from parallax.settings.stages import defined_stages, overlay, resolve_stage
from parallax.settings.walk import Walk, shown

NOT_GIVEN = "(not given)"  # stands for a mandatory value while the rest is checked


def check(cfg: DictConfig, *, complete: bool = True) -> None:
    """Raise `ConfigError` with every problem of the configuration; return quietly when there is none.

    Args:
        cfg: as Hydra composed it, interpolations included.
        complete: also insist on mandatory values (`data.path`) and on files and folders that must be there. Off when the
            configuration is only looked at.
    """
    problems = find_problems(cfg, complete=complete)
    if problems:
        raise ConfigError(list(problems.values()))


def find_problems(cfg: DictConfig, *, complete: bool = True) -> Problems:
    """Dotted key → one sentence, in the order found. Empty when all is well."""
    raw = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    absent = list(_fill_absent(raw))
    cfg = OmegaConf.create(raw) if absent else cfg
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "the configuration")
        return {key: f"{key} refers to something that cannot be had: {str(error).splitlines()[0].rstrip('.')}."}
    if misshapen := _misshapen(plain):
        return misshapen
    walk = _walk_all(raw, plain)
    problems = walk.result()
    if complete:
        problems.update(missing_problems(plain, absent, walk.places))
    if not problems:
        stages = [resolve_stage(cfg, name) for name in plain["method"]["stages"]]
        problems.update(combination_problems(plain, stages))
    return problems


def part_problems(node: object, key: str) -> list[str]:
    """What is wrong with one part of a configuration that comes from elsewhere (a run folder), as it would stand at `key`."""
    if not isinstance(node, dict):
        return [f"{key} is no part: {shown(node)}."]
    walk = Walk({key.split(".")[0]: node}, {})
    walk.value(rule_at(key) or Rule("component"), node, node, key)
    return list(walk.result().values())


def _misshapen(plain: dict[str, Any]) -> Problems:
    """Groups that are no groups at all, without which nothing else can be looked at."""
    keys = root().keys or {}
    groups = [name for name, rule in keys.items() if rule.kind in ("group", "component", "mapping")]
    problems: Problems = {}
    for name in groups:
        value = plain.get(name)
        if not isinstance(value, dict) and (value is not None or name in ("method", "task", "model")):
            problems[name] = f"{name}={shown(value)} is not allowed: {name} is a group of keys."
    for name, node in (plain.get("stages") or {}).items() if "stages" not in problems else ():
        if not isinstance(node, dict):
            problems[f"stages.{name}"] = f"stages.{name}={shown(node)} is not allowed: a stage is a group of keys."
    stages = plain["method"].get("stages") if "method" not in problems else []
    if not isinstance(stages, list) or not all(isinstance(name, str) for name in stages):
        said = shown(stages)
        problems["method.stages"] = f"method.stages={said} is not allowed: it must be a list of the names of stages."
    return problems


def _fill_absent(node: Node | list[Any], path: str = "") -> Iterator[str]:
    """Put a stand-in for every mandatory value that was not given, and name those keys."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if value == "???":
            node[key] = NOT_GIVEN  # type: ignore[index, call-overload]
            yield f"{path}{key}"
        elif isinstance(value, dict | list):
            yield from _fill_absent(value, f"{path}{key}.")


def _walk_all(raw: dict[str, Any], plain: dict[str, Any]) -> Walk:
    walk = Walk(plain, raw)
    walk.root({key: value for key, value in plain.items() if key != "stages"}, raw)
    known = defined_stages(plain)
    for name in plain.get("method", {}).get("stages") or []:
        if name not in known:
            have = ", ".join(known) or "none"
            walk.say(
                "method.stages", f"method.stages names {name!r}, and this method has no such stage; it has: {have}."
            )
    for name, node in (plain.get("stages") or {}).items():
        if name not in known:
            walk.unknown_stage(name, known)
            continue
        path = f"stages.{name}"
        own = {key: value for key, value in node.items() if key not in STAGE_GROUPS}
        for key, value in own.items():
            walk.below(stage_rule(), key, value, raw["stages"][name].get(key), f"{path}.{key}")
        for group in STAGE_GROUPS:
            if group in node:
                merged = overlay(plain.get(group), node[group])
                as_written = overlay(raw.get(group), raw["stages"][name][group])
                walk.below(root(), group, merged, as_written, f"{path}.{group}")
    return walk
