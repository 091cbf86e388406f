"""The rule that an annotation says. One reader for annotations read from the source and for those of living classes."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, InitVar, fields, is_dataclass, replace
from enum import Enum
from inspect import isclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NotRequired,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf

from parallax.settings.ranges import Ascending, Exists, NamedIn, Of, OneOf, Pattern
from parallax.settings.rules import Rule

ANYTHING = Rule("anything")
_PLAIN = {bool: Rule("flag"), int: Rule("integer"), float: Rule("number"), str: Rule("text"), Path: Rule("text")}
_BOUNDS: dict[type, str] = {Gt: "above", Ge: "low", Lt: "below", Le: "high"}
_LISTS = (list, tuple, set, frozenset, Sequence)
_MAPPINGS = (dict, Mapping)


class Group:
    """Base of groups of keys that are no parts (`trainer`, `optim`, …): frozen dataclasses whose fields are the keys.

    `others` is what any further key may hold; there are none where it is None.
    """

    others: ClassVar[Any] = None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """The group with the values of a checked, resolved configuration."""
        hints, names = _hints(cls), list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
        if unknown := sorted(set(plain) - set(names)) if cls.others is None else []:
            raise ValueError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(names)}")
        return cls(**{name: _built(hints[name], plain[name]) for name in names if name in plain})


class SourceClass:
    """Base of stand-ins for classes that were only read from the source, never imported."""

    target = ""  # dotted path of the class


def rule_of(annotation: object) -> Rule:
    """The rule an annotation says; what it cannot say is not checked."""
    if annotation is Any or annotation is object:
        return ANYTHING
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rule = rule_of(arguments[0])
        for mark in arguments[1:]:
            rule = _narrowed(rule, mark)
        return rule
    if isinstance(annotation, InitVar):
        return rule_of(annotation.type)
    if origin is NotRequired:
        return rule_of(arguments[0])
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _union([rule_of(argument) for argument in arguments if argument is not types.NoneType], arguments)
    if (origin or annotation) in _LISTS:
        return _list(origin, arguments)
    if (origin or annotation) in _MAPPINGS:
        if len(arguments) != 2:
            return Rule("mapping")
        return Rule("mapping", items=_items(arguments[1]), choices=rule_of(arguments[0]).choices)
    if (origin or annotation) in (Iterable, Callable):
        items = rule_of(arguments[0]) if origin is Iterable else Rule("component")
        if items.kind == "component":
            return Rule("component", many=origin is Iterable)
        return Rule("list", items=items)
    if is_typeddict(annotation):
        hints = _hints(annotation)
        needed = tuple(name for name, hint in hints.items() if get_origin(hint) is not NotRequired)
        return Rule("group", keys={name: rule_of(hint) for name, hint in hints.items()}, needed=needed)
    return _of_class(annotation) if isclass(annotation) else ANYTHING


def words_of(members: Mapping[str, object]) -> list[str]:
    """How members of an enumeration are given in a configuration: by their values where all are texts, else by name."""
    texts = [value for value in members.values() if isinstance(value, str)]
    return texts if len(texts) == len(members) else list(members)


def word_of(member: Enum) -> str:
    """How a member of an enumeration is given in a configuration."""
    return next(word for word, each in _of_class(type(member)).members.items() if each is member)


def _of_class(kind: type) -> Rule:
    if issubclass(kind, Enum):
        words = words_of({member.name: member.value for member in kind})
        return Rule("text", choices=tuple(words), members=dict(zip(words, kind, strict=True)))
    if is_dataclass(kind) and issubclass(kind, Group):
        hints = _hints(kind)
        needed = tuple(field.name for field in fields(kind) if field.default is field.default_factory is MISSING)
        keys = {field.name: rule_of(hints[field.name]) for field in fields(kind)}
        others = {"*": rule_of(kind.others)} if kind.others is not None else {}
        return Rule("group", keys={**keys, **others}, needed=needed)
    if issubclass(kind, SourceClass):
        return Rule("component", of=kind.target)
    if kind.__module__ == "builtins":
        return ANYTHING
    return Rule(
        "component", of="" if getattr(kind, "_is_protocol", False) else f"{kind.__module__}.{kind.__qualname__}"
    )


def _built(annotation: object, value: object) -> Any:
    forms = [annotation, *get_args(annotation)]
    inner = next((form for form in forms if isclass(form) and issubclass(form, Group)), None)
    if inner is None or not isinstance(value, Mapping):
        rule = rule_of(annotation)
        if not rule.allows(value):
            raise ValueError(f"{value!r} is not allowed: it must be {rule.words()}")
        return rule.one_form(value)
    if get_origin(annotation) is dict:
        return {name: inner.of(item) for name, item in value.items()}
    return inner.of(value)


def _hints(kind: object) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _literal(words: tuple[Any, ...]) -> Rule:
    null, words = None in words, tuple(word for word in words if word is not None)
    if all(isinstance(word, str) for word in words):
        return Rule("text", choices=words, null=null)
    return Rule("values", values=words, null=null)


def _list(origin: object, arguments: tuple[Any, ...]) -> Rule:
    if origin is tuple and arguments and arguments[-1] is not ...:
        size = len(arguments)
        same = all(argument == arguments[0] for argument in arguments)
        rules = tuple(rule_of(argument) for argument in arguments)
        return Rule("list", items=rules[0] if same else None, places=() if same else rules, least=size, most=size)
    return Rule("list", items=_items(arguments[0]) if arguments else None)


def _items(annotation: object) -> Rule | None:
    rule = rule_of(annotation)
    return None if rule.kind == "anything" else rule


def _union(rules: Sequence[Rule], arguments: tuple[Any, ...]) -> Rule:
    """One rule for several forms: words beside a number, patterns beside words, the rest as alternatives."""
    null = types.NoneType in arguments or any(rule.null for rule in rules)
    forms: list[Rule] = []
    for rule in (replace(rule, null=False) for rule in rules):
        if rule.kind == "anything":
            return replace(ANYTHING, null=null)
        known = next((place for place, form in enumerate(forms) if _goes_with(form, rule)), None)
        if known is None:
            forms.append(rule)
        else:
            forms[known] = _together(forms[known], rule)
    *others, last = forms
    return replace(last, either=tuple(others), null=null)


def _goes_with(form: Rule, other: Rule) -> bool:
    bare = other.kind == "text" and bool(other.choices) and not other.pattern
    return form == other or (form.kind in ("integer", "number") and bare) or form.kind == other.kind == "text"


def _together(form: Rule, other: Rule) -> Rule:
    choices = (*form.choices, *(word for word in other.choices if word not in form.choices))
    return replace(
        form,
        choices=choices,
        pattern=form.pattern or other.pattern,
        pattern_words=form.pattern_words or other.pattern_words,
    )


def _narrowed(rule: Rule, mark: object) -> Rule:
    """A rule with one more thing said about it; what is said about a union holds for each of its forms."""
    if rule.either and not isinstance(mark, NamedIn | Of):
        rule = replace(rule, either=tuple(_narrowed(form, mark) for form in rule.either))
    bounds: dict[str, Any] = {}
    for bound in mark if isinstance(mark, Interval) else (mark,):
        bounds |= {_BOUNDS[type(bound)]: getattr(bound, type(bound).__name__.lower())} if type(bound) in _BOUNDS else {}
    if bounds:
        return replace(rule, **bounds)
    match mark:
        case MultipleOf(multiple_of=int() | float() as multiple):
            return replace(rule, multiple=multiple)
        case Len(min_length=least, max_length=most):
            return replace(rule, least=least, most=most)
        case MinLen(min_length=least):
            return replace(rule, least=least)
        case MaxLen(max_length=most):
            return replace(rule, most=most)
        case Pattern(expression=expression, words=words):
            return replace(rule, pattern=expression, pattern_words=words)
        case OneOf(words=words):
            return replace(rule, choices=words)
        case Exists(kind=kind):
            return replace(rule, exists=kind) if rule.kind == "text" else rule
        case Ascending():
            return replace(rule, ascending=True)
        case NamedIn(group=group):
            parts = [form for form in (rule, *rule.either) if form.kind == "component"]
            return Rule("component", of=parts[0].of if parts else "", named=group, null=rule.null)
        case Of(target=target):
            return Rule("component", of=target, null=rule.null)
        case _:
            return rule
