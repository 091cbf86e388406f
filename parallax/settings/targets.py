"""What a `_target_` is and takes, read from its source: its arguments with their rules, its kind, the facts on its class."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from parallax.settings.annotated_rules import ANYTHING, rule_of
from parallax.settings.choices import named_node
from parallax.settings.rules import Rule
from parallax.settings.source import (
    PACKAGES,
    Definition,
    NoConstant,
    UnknownTarget,
    annotation,
    bases,
    constant,
    constant_or_none,
    definition,
    followed,
    line,
    partials,
    returned_class,
)
from parallax.settings.suggestions import or_list

GET_METHOD = "hydra.utils.get_method"  # the one function of others that may be named: it names one of ours


@dataclass(frozen=True)
class Argument:
    """One argument of a class or function, as its source says it."""

    name: str
    module: str  # where it is written
    annotated: ast.expr | None
    given: ast.expr | None  # its default; None when it has none, or one that is made anew each time
    required: bool
    unnamed: bool = True  # may be given by its place
    given_in: str = ""  # the module of its default, where that is another: of a `partial`

    @cached_property
    def rule(self) -> Rule:
        """What it may hold."""
        return rule_of(annotation(self.annotated, self.module))

    @property
    def default(self) -> Any:
        """Its default as plain data. Raises NoConstant when it has none, or one that the source alone does not tell."""
        if self.given is None:
            raise NoConstant(self.name)
        return constant(self.given, self.given_in or self.module)


@dataclass(frozen=True, slots=True)
class Signature:
    """Arguments of a class or function, in order."""

    arguments: dict[str, Argument]
    open: bool = False  # takes any further keyword

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.arguments)

    @property
    def unnamed(self) -> tuple[str, ...]:
        """Those that may be given by their place (`_args_`)."""
        return tuple(name for name, argument in self.arguments.items() if argument.unnamed)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(name for name, argument in self.arguments.items() if argument.required)

    def rule(self, name: str) -> Rule:
        """What the argument may hold."""
        return self.arguments[name].rule if name in self.arguments else ANYTHING


@cache
def signature(target: str) -> Signature:
    """The arguments of `package.module.Name`. Raises `UnknownTarget` when it may not be named or is not there."""
    if target == GET_METHOD:
        path = Argument("path", __name__, ast.Name("str"), None, required=True)
        return Signature({"path": path})
    found = _arguments(*_defined(target))
    for call, module in reversed(list(partials(target))):
        found = _given(found, call, module)
    return found


def require_own(target: str) -> None:
    """Raises `UnknownTarget` unless the dotted path leads into one of our packages, to a public name."""
    parts = target.split(".")
    if parts[0] not in PACKAGES or len(parts) < 2:
        raise UnknownTarget(f"only code in {or_list(PACKAGES)} (or {GET_METHOD}) may be named in a configuration")
    if any(not part.isidentifier() or part.startswith("_") for part in parts):
        raise UnknownTarget("it is no dotted path of public names")


def same(target: str, other: str) -> bool:
    """Whether two dotted paths name one class or function, re-exports followed."""
    return target == other or followed(target) == followed(other)


def is_a(target: str, kind: str) -> bool:
    """Whether `target` names the class `kind`, one derived from it, or a function that says it returns such a thing.

    Both are dotted paths; re-exports are followed. What cannot be told from the source is none.
    """
    try:
        wanted, where = _defined(kind)
    except UnknownTarget:
        return False
    return any((found.name, place) == (wanted.name, where) for found, place in _line(target))


def is_function(target: str) -> bool:
    """Whether a dotted path names a function, of ours or of others that may be named."""
    return target == GET_METHOD or isinstance(_defined(target)[0], ast.FunctionDef)


def fact(target: str, name: str) -> Any:
    """What a class says about itself (`pairs_only: ClassVar[bool] = True`), or the nearest it is derived from; else None."""
    for found, where in _line(target):
        for member in found.body:
            match member:
                case ast.AnnAssign(target=ast.Name(id=known), value=ast.expr() as value) if known == name:
                    return constant_or_none(value, where)
                case ast.Assign(targets=[ast.Name(id=known)], value=value) if known == name:
                    return constant_or_none(value, where)
    return None


def _line(target: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """The class that a dotted path names, or that a function says it returns, and all it is derived from; nothing for others."""
    try:
        node, module = _defined(target)
    except UnknownTarget:
        return
    if isinstance(node, ast.ClassDef):
        yield from line(node, module)
    elif returned := returned_class(node, module):
        yield from _line(returned)


def parts_in(node: object, rule: Rule = ANYTHING) -> Iterator[str]:
    """The `_target_` of every part in a node, outer ones first; of those given by name as well."""
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        yield node["_target_"]
        try:
            takes = signature(node["_target_"])
        except UnknownTarget:
            return
        for name, value in node.items():
            yield from parts_in(value, takes.rule(name))
    elif rule.named:
        name = node.get("name") if isinstance(node, dict) else node
        arguments = {key: value for key, value in node.items() if key != "name"} if isinstance(node, dict) else {}
        if said := named_node(rule.named, str(name)):
            yield from parts_in({**said, **arguments})
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from parts_in(value, rule.items or ANYTHING)


def _defined(target: str) -> tuple[Definition, str]:
    require_own(target)
    module, _, name = target.rpartition(".")
    return definition(module, name)


def _given(signature: Signature, call: ast.Call, module: str) -> Signature:
    """What is left to give after `partial(Class, …)`; what it gives by name is then a default, and goes by name only."""
    taken = signature.unnamed[: len(call.args) - 1]
    left = {name: argument for name, argument in signature.arguments.items() if name not in taken}
    for word in call.keywords:
        if word.arg in left:
            now = replace(left[word.arg], given=word.value, given_in=module, required=False, unnamed=False)
            left[word.arg] = now
    return replace(signature, arguments=left)


def _arguments(node: Definition, module: str) -> Signature:
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, module, skip=0)
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return _with_those_handed_on(_of_function(member, module, skip=1), member, node, module)
    if is_dataclass(node):
        return Signature(_fields(node, module))
    inherited = (_arguments(*base) for base in bases(node, module))
    return next((found for found in inherited if found.arguments or found.open), Signature({}))


def _with_those_handed_on(own: Signature, init: ast.FunctionDef, node: ast.ClassDef, module: str) -> Signature:
    """With `super().__init__(…, **rest)`, what the base takes and `__init__` does not give it may be given, too."""
    for call in ast.walk(init) if init.args.kwarg else ():
        if isinstance(call, ast.Call) and re.fullmatch(r"super\(.*\)\.__init__", ast.unparse(call.func)):
            names = {word.arg for word in call.keywords}
            for base in bases(node, module) if None in names else ():
                above = _arguments(*base)
                further = [a for a in list(above.arguments.values())[len(call.args) :] if a.name not in names]
                handed = {a.name: replace(a, unnamed=False) for a in further if a.name not in own.arguments}
                return Signature({**own.arguments, **handed}, above.open)
    return own


def _of_function(node: ast.FunctionDef, module: str, skip: int) -> Signature:
    plain = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [(*pair, True) for pair in zip(plain, defaults, strict=True)][skip:]
    pairs += [(*pair, False) for pair in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    found = {arg.arg: Argument(arg.arg, module, arg.annotation, given, given is None, at) for arg, given, at in pairs}
    return Signature(found, node.args.kwarg is not None)


def _fields(node: ast.ClassDef, module: str) -> dict[str, Argument]:
    """The fields of a dataclass, those of the dataclasses it is derived from first; last what can only be given by name."""
    found: dict[str, Argument] = {}
    by_name = "kw_only=True" in " ".join(map(ast.unparse, node.decorator_list))
    for base, where in reversed(list(bases(node, module))):
        found |= _fields(base, where) if is_dataclass(base) else {}
    for member in node.body:
        if not isinstance(member, ast.AnnAssign) or not isinstance(member.target, ast.Name):
            continue
        said, value = ast.unparse(member.annotation), member.value
        made = isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field")
        words = {word.arg: word.value for word in value.keywords} if made and isinstance(value, ast.Call) else {}
        by_name = by_name or said.endswith("KW_ONLY")
        if "ClassVar" in said or said.endswith("KW_ONLY") or getattr(words.get("init"), "value", True) is False:
            continue
        given = words.get("default") if made else value
        required = given is None and "default_factory" not in words
        name = member.target.id
        unnamed = not getattr(words.get("kw_only"), "value", by_name)
        found[name] = Argument(name, module, member.annotation, given, required, unnamed)
    return dict(sorted(found.items(), key=lambda item: not item[1].unnamed))


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is written as a dataclass."""
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
