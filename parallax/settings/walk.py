"""Walks a resolved configuration beside its rules and notes unknown keys, wrong types and values out of range."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from parallax.settings.blame import Blame
from parallax.settings.choices import choices, groups, named_node, named_targets
from parallax.settings.comments import CONF, described_keys, meaning_of
from parallax.settings.kinds import named, require_fitting
from parallax.settings.places import COMMAND
from parallax.settings.rules import Rule
from parallax.settings.schema import FILE_GROUPS, STAGE_GROUPS, group_keys, root, rule_at
from parallax.settings.suggestions import closest, closest_keys, or_list
from parallax.settings.targets import Signature, UnknownTarget, is_a, signature
from parallax.settings.tasks import task_rule

HYDRA_WORDS = {"_args_", "_convert_", "_partial_", "_recursive_"}  # what a node may say to Hydra beside its arguments


def shown(value: object) -> str:
    """A value as it is typed on the command line, cut when long."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


class Walk(Blame):
    """Looks at every value; `result()` then gives the problems."""

    def __init__(self, plain: dict[str, Any], raw: dict[str, Any]) -> None:
        super().__init__()
        self.plain = plain
        self.referred = set(references(raw))  # keys that others take their value from
        self.places: dict[str, tuple[str, str]] = {}  # key -> path that must be there, and its kind (`Rule.exists`)

    def root(self, plain: dict[str, Any], raw: dict[str, Any]) -> None:
        self._removed(plain)
        for name, value in plain.items():
            if name in FILE_GROUPS:
                self._like_file(value, _from_file(name), name)
            elif name == "task":
                self._task(value, raw.get(name))
            else:
                self.below(root(), name, value, raw.get(name), name)

    def _removed(self, plain: dict[str, Any]) -> None:
        """Groups and keys that every configuration has, and that were taken away (`~optim`, `optim=null`)."""
        for group, rule in (root().keys or {}).items():
            if plain.get(group) is None and not rule.null and rule.kind != "mapping":
                have = choices(group)
                self.say(group, f"{group} was taken away; {f'choose one of {or_list(have)}' if have else 'leave it'}.")

    def _lacking(self, rule: Rule, value: Mapping[str, Any], path: str) -> None:
        for name in rule.needed:
            if name not in value:
                gone = f"{path}.{name} was taken away, and every run needs it; leave it."
                self.say(f"{path}.{name}", gone if rule_at(path) is rule else f"{path} lacks {path}.{name}; give it.")

    def below(self, rule: Rule, name: str, value: object, raw: object, path: str) -> None:
        """One key of a group."""
        keys = rule.keys or {}
        known = keys.get(name, keys.get("*"))
        if known is None and (path in self.referred or path in _declared(path.split(".")[0])):
            return  # a key for others to take their value from: they say what it may be
        if known is None:
            self._unknown(path, value)
        else:
            self.value(known, value, raw, path)

    def unknown_stage(self, name: str, known: list[str]) -> None:
        self.say(
            f"stages.{name}",
            f"stages.{name} is set, and the method {self.plain.get('method', {}).get('name')} has no stage {name}; "
            f"its stages are: {', '.join(known) or 'none'}.",
        )

    def _task(self, value: object, raw: object) -> None:
        name = value.get("name") if isinstance(value, dict) else None
        self.value(task_rule(str(name)), value, raw, "task")
        if isinstance(name, str) and name.isidentifier() and name not in choices("task"):
            self.say("task.name", f"task.name={name} is no task; tasks are {', '.join(choices('task'))}.")

    def value(self, rule: Rule, value: object, raw: object, path: str) -> None:
        form = rule.form_for(value) if rule.holds_parts else rule
        if form.kind == "group" and not isinstance(value, Mapping) and not rule.allows(value):
            names = ", ".join(name for name in form.keys or () if name != "*")
            said = f" ({names})" if names else ""
            self.say(path, f"{path}={shown(value)} is not allowed: {path} is a group of keys{said}.", raw)
        elif form.kind == "component" and (isinstance(value, Mapping) or (form.named and isinstance(value, str))):
            self._component(form, value, raw, path)
        elif form.kind == "group" and isinstance(value, Mapping):
            self._lacking(form, value, path)
            for name, item in value.items():
                self.below(form, str(name), item, _inside(raw, name), f"{path}.{name}")
        elif form.holds_parts and isinstance(value, Mapping | list):
            self._items(form, value, raw, path)
        elif not rule.allows(value):
            self._not_allowed(path, value, rule, raw)
        else:
            for place, kind in (
                rule.places_in(value) if self.inside is None else ()
            ):  # a part that is used again was seen
                self.places.setdefault(self._source(path, raw), (place, kind))
            self._inner(value, path)

    def _source(self, path: str, raw: object) -> str:
        """The key to blame for a value: the one it is taken from, where that has no rule of its own."""
        taken = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
        return taken[1] if taken and rule_at(taken[1]) is None else path

    def _items(self, form: Rule, value: Mapping[str, Any] | list[Any], raw: object, path: str) -> None:
        """Items of a list or mapping that holds parts, each by itself; then their number."""
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        rules = form.places or (form.items,) * len(value)
        if isinstance(value, list) and not replace(form, items=None, places=(), either=()).allows(value):
            self._not_allowed(path, value, form, raw)
            return
        for (name, item), rule in zip(pairs, rules, strict=True):
            self.value(rule or Rule("anything"), item, _inside(raw, name), f"{path}.{name}")

    def _not_allowed(self, path: str, value: object, rule: Rule, raw: object) -> None:
        path = self._source(path, raw)
        meaning = meaning_of(path, self.plain)
        explained = f" ({path.rpartition('.')[2]}: {meaning})" if meaning else ""
        near = closest(value, rule.choices) if isinstance(value, str) else []
        hint = f" Did you mean {or_list(near)}?" if near else ""
        self.say(path, f"{path}={shown(value)} is not allowed: it must be {rule.words()}.{hint}{explained}", raw)

    def _unknown(self, path: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for name, item in value.items():
                self._unknown(f"{path}.{name}", item)
            return
        known = self._all_keys()
        near = closest_keys(
            path, known if path.startswith("stages.") else {key for key in known if key[:7] != "stages."}
        )
        hint = f" Did you mean {or_list(near)}?" if near else f" `{COMMAND} --help` lists the groups and keys."
        self.say(path, f"There is no key {path} (given as {path}={shown(value)}).{hint}")

    def _component(self, rule: Rule, given: str | Mapping[str, Any], raw: object, path: str) -> None:
        before, self.inside = self.inside, raw if isinstance(raw, str) else self.inside
        node = {"name": given} if isinstance(given, str) else given
        if rule.named and "_target_" not in node:
            self._by_name(rule, node, raw, path)
        else:
            self._of_target(rule, node, raw if isinstance(raw, dict) else {}, path)
        self.inside = before

    def _by_name(self, rule: Rule, node: Mapping[str, Any], raw: object, path: str) -> None:
        """A part given as a choice of a group of conf/, with arguments of its own."""
        name, known = node.get("name"), named_targets(rule.named)
        if not isinstance(name, str) or name not in known:
            near = closest(str(name), known)
            hint = f" Did you mean {or_list(near)}?" if near else ""
            kind, given = rule.of.rpartition(".")[2].lower() or "part", shown(node if name is None else name)
            have = f"Choices of {rule.named} are {', '.join(sorted(known))}"
            self.say(path, f"{path} names no {kind}: {given}. {have}.{hint}")
            return
        arguments = {key: value for key, value in node.items() if key != "name"}
        said = named_node(rule.named, name)
        self._of_target(rule, {**said, **arguments}, raw if isinstance(raw, dict) else {}, path)

    def _of_target(self, rule: Rule, node: Mapping[str, Any], raw: dict[str, Any], path: str) -> None:
        target = node.get("_target_")
        if not isinstance(target, str):
            self.say(path, f"{path} needs a `_target_` that names a class of ours.")
            return
        try:
            takes = signature(target)
            require_fitting(node, path, rule.of)
        except UnknownTarget as error:
            self.say(f"{path}._target_", f"{path} names {named(node)!r}: {error}.")
            return
        if rule.of and (node.get("_partial_") or not is_a(target, rule.of)):
            what = "only a part of it" if is_a(target, rule.of) else f"no {rule.of.rpartition('.')[2]}"
            self.say(f"{path}._target_", f"{path} names {target!r}: it is {what}; give a class derived from {rule.of}.")
            return
        self._arguments({k: v for k, v in node.items() if k != "_target_"}, raw, path, target, takes)

    def _arguments(self, given: dict[str, Any], raw: dict[str, Any], path: str, target: str, takes: Signature) -> None:
        kind = target.rpartition(".")[2]
        unnamed = given.get("_args_") or []
        for place, value in enumerate(unnamed if isinstance(unnamed, list) else []):
            name = takes.unnamed[place] if place < len(takes.unnamed) else None
            if name is None or name in given:
                why = f"{kind} takes {len(takes.unnamed)}" if name is None else f"{path}.{name} is given, too"
                self.say(f"{path}._args_", f"{path}._args_ holds one argument too many: {shown(value)}; {why}.")
                continue
            self.value(takes.rule(name), value, None, f"{path}._args_.{place}")
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
            else:
                self.value(takes.rule(name), value, raw.get(name), key)
        lacking = [name for name in takes.required if name not in given and name not in takes.unnamed[: len(unnamed)]]
        if lacking and not given.get("_partial_"):
            self.say(path, f"{path} lacks {', '.join(f'{path}.{name}' for name in lacking)}, which {kind} needs.")

    def _inner(self, value: object, path: str) -> None:
        """Components in lists and mappings that have no rule of their own."""
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        if isinstance(value, dict) and "_target_" in value:
            self._component(Rule("component"), value, value, path)
            return
        for name, item in pairs:
            self._inner(item, f"{path}.{name}")

    def _like_file(self, value: object, example: object, path: str) -> None:
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
        """Every key this configuration could have: those of groups, and those of the parts that are there."""
        keys = {*group_keys(root()), *groups(), *self.referred, "stages"}
        for name, value in self.plain.items():
            if (root().keys or {}).get(name, Rule("anything")).kind == "component":
                keys |= {f"{name}.{key}" for key in _component_keys(value)}
        for name in self.plain.get("stages") or {}:
            keys |= {f"stages.{name}.{key}" for key in keys if key.split(".")[0] in STAGE_GROUPS}
        return keys


def references(raw: object) -> Iterator[str]:
    """Every key that a value somewhere below refers to (`${key}`)."""
    if isinstance(raw, str):
        yield from re.findall(r"\$\{([\w.]+)\}", raw)
    elif isinstance(raw, Mapping | list):
        for value in raw.values() if isinstance(raw, Mapping) else raw:
            yield from references(value)


@cache
def _declared(group: str) -> frozenset[str]:
    """Keys that some file of a group of conf/ has."""
    return frozenset(key.key for file in (CONF / group).glob("*.yaml") for key in described_keys(file))


def _inside(raw: object, name: object) -> Any:
    """What stands at a place below, as written; a reference that stands for the whole stands for its parts."""
    if isinstance(raw, Mapping):
        return raw.get(name)
    if isinstance(raw, list):
        return raw[name] if isinstance(name, int) and name < len(raw) else None
    return raw


def _component_keys(value: object) -> set[str]:
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
