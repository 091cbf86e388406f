"""Walks a resolved configuration beside the schema and notes unknown keys, wrong types and values out of range."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from parallax.settings.blame import Blame
from parallax.settings.choices import choices, groups, views
from parallax.settings.comments import CONF, meaning_of
from parallax.settings.components import COMPONENTS
from parallax.settings.evaluation_keys import BENCHMARK_KEYS
from parallax.settings.kinds import kinds_at, named, require_part
from parallax.settings.rules import Rule
from parallax.settings.schema import FILE_GROUPS, KEYS, STAGE_GROUPS, TASK_KEYS
from parallax.settings.suggestions import closest, closest_keys, or_list
from parallax.settings.targets import Signature, UnknownTarget, signature

Tree = dict[str, "Tree | Rule"]
WHOLE_GROUPS = (
    "model",
    "pairs",
    "generation",
    "reference",
    "optim",
    "trainer",
    "evaluation",
    "debug",
    "paths",
    "export",
)
MAY_LACK = {
    *BENCHMARK_KEYS, "suites.*", "harnesses.*",  # of the chosen evaluation
    "url", "model", "concurrency", "timeout", "retries", "key_variable", "adapter",  # of a server that generates
}  # fmt: skip
MAY_BE_NULL = {"adapter", "optimized_metric", "run", "runs", "stages", "sweep"}
HYDRA_WORDS = {"_args_", "_convert_", "_partial_", "_recursive_"}  # what a node may say to Hydra beside its arguments


@cache
def tree() -> Tree:
    """The schema as nested mappings, with a rule at each leaf."""
    root: Tree = {}
    for key, rule in KEYS.items():
        node = root
        *above, last = key.split(".")
        for name in above:
            child = node.setdefault(name, {})
            assert isinstance(child, dict), f"the schema has both {name} and keys below it"
            node = child
        node[last] = rule
    return root


def shown(value: Any) -> str:
    """A value as it is typed on the command line, cut when long."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


class Walk(Blame):
    """Looks at every value; `result()` then gives the problems."""

    def __init__(self, plain: dict[str, Any]) -> None:
        super().__init__()
        self.plain = plain

    def root(self, plain: dict[str, Any], raw: dict[str, Any]) -> None:
        self._removed(plain)
        for name, value in plain.items():
            if name in FILE_GROUPS:
                self._like_file(value, _from_file(name), name)
            elif name == "task":
                self._task(value, raw.get(name))
            else:
                self._below(tree(), name, value, raw.get(name), name)

    def _removed(self, plain: dict[str, Any]) -> None:
        """Groups and keys that every configuration has, and that were taken away (`~optim`, `optim=null`)."""
        for group in {key.split(".")[0]: None for key in KEYS}:
            if plain.get(group) is None and group not in MAY_BE_NULL:
                have = choices(group)
                self.say(group, f"{group} was taken away; {f'choose one of {or_list(have)}' if have else 'leave it'}.")
        for key in KEYS:
            group, _, name = key.partition(".")
            if group in WHOLE_GROUPS and isinstance(plain.get(group), dict) and name not in MAY_LACK:
                node: Any = plain
                for part in key.split("."):
                    node = node.get(part, KEYS) if isinstance(node, dict) else node
                if node is KEYS:
                    self.say(key, f"{key} was taken away, and every run needs it; leave it.")

    def group(self, name: str, value: Any, raw: Any, path: str) -> None:
        """A group as one stage uses it."""
        self._below(tree(), name, value, raw, path)

    def stage(self, node: dict[str, Any], raw: dict[str, Any], path: str) -> None:
        stage_tree = tree()["stages"]["*"]  # type: ignore[index]
        assert isinstance(stage_tree, dict)
        for name, value in node.items():
            self._below(stage_tree, name, value, raw.get(name), f"{path}.{name}")

    def unknown_stage(self, name: str, known: list[str]) -> None:
        self.say(
            f"stages.{name}",
            f"stages.{name} is set, and the method {self.plain.get('method', {}).get('name')} has no stage {name}; "
            f"its stages are: {', '.join(known) or 'none'}.",
        )

    def _task(self, value: Any, raw: Any) -> None:
        name = value.get("name") if isinstance(value, dict) else None
        keys: Tree = {**tree()["task"], **TASK_KEYS.get(str(name), {})}  # type: ignore[dict-item]
        self._value(keys, value, raw, "task")
        if isinstance(name, str) and name.isidentifier() and name not in choices("task"):
            self.say("task.name", f"task.name={name} is no task; tasks are {', '.join(choices('task'))}.")

    def _below(self, rules: Tree, name: str, value: Any, raw: Any, path: str) -> None:
        rule = rules.get(name, rules.get("*"))
        if rule is None:
            self._unknown(path, value)
        else:
            self._value(rule, value, raw, path)

    def _value(self, rule: Tree | Rule, value: Any, raw: Any, path: str) -> None:
        if isinstance(rule, Rule):
            if rule.kind == "component" and isinstance(value, dict):
                self._component(value, raw, path)
            elif not rule.allows(value):
                self._not_allowed(path, value, rule, raw)
        elif not isinstance(value, dict):
            keys = ", ".join(name for name in rule if name != "*")
            self.say(
                path, f"{path}={shown(value)} is not allowed: {path} is a group of keys{f' ({keys})' if keys else ''}."
            )
        else:
            for name, item in value.items():
                self._below(rule, str(name), item, raw.get(name) if isinstance(raw, dict) else raw, f"{path}.{name}")

    def _not_allowed(self, path: str, value: Any, rule: Rule, raw: Any) -> None:
        meaning = meaning_of(path, self.plain)
        explained = f" ({path.rpartition('.')[2]}: {meaning})" if meaning else ""
        near = closest(value, rule.choices) if isinstance(value, str) else []
        hint = f" Did you mean {or_list(near)}?" if near else ""
        self.say(path, f"{path}={shown(value)} is not allowed: it must be {rule.words()}.{hint}{explained}", raw)

    def _unknown(self, path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, item in value.items():
                self._unknown(f"{path}.{name}", item)
            return
        known = self._all_keys()
        near = closest_keys(
            path, known if path.startswith("stages.") else {key for key in known if key[:7] != "stages."}
        )
        hint = f" Did you mean {or_list(near)}?" if near else " `python run.py --help` lists the groups and keys."
        self.say(path, f"There is no key {path} (given as {path}={shown(value)}).{hint}")

    def _component(self, node: dict[str, Any], raw: Any, path: str) -> None:
        before, self.inside = self.inside, raw if isinstance(raw, str) else self.inside
        self._component_itself(node, raw if isinstance(raw, dict) else {}, path)
        self.inside = before

    def _component_itself(self, node: dict[str, Any], raw: dict[str, Any], path: str) -> None:
        target = node.get("_target_")
        if not isinstance(target, str):
            self.say(path, f"{path} needs a `_target_` that names a class of ours.")
            return
        try:
            takes = signature(target)
            require_part(target, node.get("path"), kinds_at(path))
        except UnknownTarget as error:
            self.say(f"{path}._target_", f"{path} names {named(node)!r}: {error}.")
            return
        self._arguments({k: v for k, v in node.items() if k != "_target_"}, raw, path, target, takes)

    def _arguments(self, given: dict[str, Any], raw: dict[str, Any], path: str, target: str, takes: Signature) -> None:
        kind = target.rpartition(".")[2]
        rules = COMPONENTS.get(target, {})
        for name, value in given.items():
            key = f"{path}.{name}"
            if name in HYDRA_WORDS:
                self._inner(value, key)
                continue
            if name not in takes.names and not takes.open:
                near = closest(name, takes.names)
                hint = f" Did you mean {path}.{near[0]}?" if near else ""
                have = f"it takes {', '.join(takes.names)}" if takes.names else "it takes no arguments"
                self.say(key, f"There is no key {key} (given as {key}={shown(value)}): {kind} has none; {have}.{hint}")
            elif name == "views" and target.startswith("augment.") and isinstance(value, list):
                self._views(value, key)
            elif name in rules:
                self._value(rules[name], value, raw.get(name), key)
                if rules[name].kind != "component":
                    self._inner(value, key)
            else:
                self._inner(value, key)
        unnamed = takes.names[: len(given.get("_args_") or [])]
        lacking = [name for name in takes.required if name not in given and name not in unnamed]
        if given.get("_partial_"):
            lacking = []
        if lacking:
            self.say(path, f"{path} lacks {', '.join(f'{path}.{name}' for name in lacking)}, which {kind} needs.")

    def _inner(self, value: Any, path: str) -> None:
        """Components further down, in lists and mappings that have no rule of their own."""
        if isinstance(value, dict):
            if "_target_" in value:
                self._component(value, value, path)
            else:
                for name, item in value.items():
                    self._inner(item, f"{path}.{name}")
        elif isinstance(value, list):
            for place, item in enumerate(value):
                self._inner(item, f"{path}.{place}")

    def _views(self, items: list[Any], path: str) -> None:
        """Views inside a view: a name, a mapping with `name` and arguments, or a component."""
        if not items:
            self.say(path, f"{path}=[] holds no view; give at least one.")
        for place, item in enumerate(items):
            key = f"{path}.{place}"
            if isinstance(item, dict) and "_target_" in item:
                self._component(item, item, key)
                continue
            name = item.get("name") if isinstance(item, dict) else item
            target = views().get(name) if isinstance(name, str) else None
            if target is None:
                near = closest(str(name), views())
                hint = f" Did you mean {or_list(near)}?" if near else ""
                self.say(key, f"{key} names no view: {shown(item)}. Views are {', '.join(sorted(views()))}.{hint}")
            elif isinstance(item, dict):
                self._component({**{k: v for k, v in item.items() if k != "name"}, "_target_": target}, item, key)

    def _like_file(self, value: Any, example: Any, path: str) -> None:
        """Keys and types as in the file that comes with the program."""
        if isinstance(example, dict) and isinstance(value, dict):
            for name, item in value.items():
                if name in example:
                    self._like_file(item, example[name], f"{path}.{name}")
                else:
                    self._unknown(f"{path}.{name}", item)
        elif isinstance(example, bool) or not isinstance(example, int | float):
            right = isinstance(value, type(example)) or example is None
            if not right:
                self.say(path, f"{path}={shown(value)} is not allowed: it must be like {shown(example)}.")
        elif type(value) is not int and (isinstance(example, int) or type(value) is not float):
            noun = "an integer" if isinstance(example, int) else "a number"
            self.say(path, f"{path}={shown(value)} is not allowed: it must be {noun}. ({meaning_of(path, self.plain)})")

    def _all_keys(self) -> set[str]:
        """Every key this configuration could have: the schema's, and those that are there."""
        keys = {key for key in KEYS if "*" not in key} | set(groups()) | {"stages"}
        for name, value in self.plain.items():
            if name in tree() and name != "stages":
                keys |= {f"{name}.{key}" for key in _component_keys(value)}
        for name in self.plain.get("stages") or {}:
            keys |= {f"stages.{name}.{key}" for key in keys if key.split(".")[0] in STAGE_GROUPS}
        return keys


def _component_keys(value: Any) -> set[str]:
    if isinstance(value, dict) and isinstance(value.get("_target_"), str):
        try:
            return set(signature(value["_target_"]).names)
        except UnknownTarget:
            return set()
    return set()


@cache
def _from_file(group: str) -> Any:
    file = Path(CONF / group / "default.yaml")
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)
