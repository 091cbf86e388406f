"""The rules of the whole configuration, group by group, and the names of its parts that other files need."""

from __future__ import annotations

from functools import cache

from parallax.settings.annotated_rules import rule_of
from parallax.settings.groups import Settings
from parallax.settings.rules import Rule

# Groups a stage may override for itself: stages.<name>.<group>.<key>.
STAGE_GROUPS = (
    "data", "asker", "aug", "pairs", "selector", "generation", "judge", "prompts", "loss", "reference", "lora", "optim",
    "trainer",
)  # fmt: skip
FILE_GROUPS = (
    "tiny_llava",
    "tiny_clip",
)  # keys are those of their file in conf/, of the same type: settings of one task


@cache
def root() -> Rule:
    """The rule of the whole configuration: a group of groups and keys."""
    return rule_of(Settings)


def stage_rule() -> Rule:
    """The rule of what a method says of one stage, the groups it changes left aside."""
    return (root().keys or {})["stages"].items or Rule("anything")


def rule_at(key: str) -> Rule | None:
    """The rule of a dotted key outside parts; names that are free (of stages, suites, pools) may be any. None without one."""
    rule: Rule | None = root()
    for name in key.split("."):
        keys = (rule.keys or {}) if rule else {}
        rule = keys.get(name, keys.get("*")) if rule and rule.kind == "group" else rule.items if rule else None
        if rule is None:
            return None
    return rule


def group_keys(rule: Rule, path: str = "") -> dict[str, Rule]:
    """Every dotted key below a group whose name is not free, with its rule."""
    found: dict[str, Rule] = {}
    for name, below in (rule.keys or {}).items():
        key = f"{path}{name}"
        if below.kind == "group":
            found |= group_keys(below, f"{key}.")
        elif name != "*":
            found[key] = below
    return found
