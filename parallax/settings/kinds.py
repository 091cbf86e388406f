"""Which code a configuration may have built: parts, by kind, each from the packages where parts of that kind live.

A configuration can come from anybody: an experiment file, a sweep file, the folder of somebody else's run. Being code of ours is
therefore not enough; a function of ours that writes a file is no data source. A part is known by the module it is defined in
and by the methods it has, both read from the source, so that asking imports nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parallax.settings.annotated_rules import ANYTHING
from parallax.settings.rules import Rule
from parallax.settings.source import Definition, UnknownTarget, definition, line, returned_class
from parallax.settings.suggestions import or_list
from parallax.settings.targets import GET_METHOD, is_a, is_dataclass, is_function, require_own, signature

DEEPEST = 50  # nodes inside nodes
_ALONE = (
    r"(stages\.\w+\.)?\w+|evaluation\.((suites|harnesses)\.)?\w+"  # keys of parts that are no other part's argument
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What parts of one kind have in common.

    Attributes:
        words: how one is called in a sentence.
        places: modules, or packages of modules, in which it is defined.
        methods: a class has one of these sets of methods, its own or inherited; () asks for none.
        returns: a function may stand for such a part when its annotation says it returns one of these; () allows no function.
        plain: a dataclass without methods, whose making does nothing.
    """

    words: str
    places: tuple[str, ...]
    methods: tuple[frozenset[str], ...] = ()
    returns: tuple[str, ...] = ()
    plain: bool = False


def _any_of(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(name.split("+")) for name in names)


SAMPLES = ("list[Sample]", "Sequence[Sample]")
KINDS: dict[str, Kind] = {
    "view": Kind("a view", ("augment",), _any_of("on_image", "on_tensor", "draw")),
    "source": Kind(
        "a data source", ("datamodules.formats", "datamodules.shapes.source", "parallax.evaluation.files",
                          "parallax.evaluation.math_answers", "parallax.evaluation.pope"),
        _any_of("__len__+__getitem__"), SAMPLES,
    ),
    "asker": Kind("an asker", ("parallax.preference.asker",), _any_of("asked")),
    "proposer": Kind("a proposer", ("parallax.preference.proposers",), _any_of("requests", "propose")),
    "judge": Kind("a judge", ("parallax.preference.judges",), _any_of("judge")),
    "selector": Kind("a selector", ("parallax.preference",), _any_of("select")),
    "keep": Kind("a keep rule", ("parallax.preference.filters",), _any_of("places")),
    "finder": Kind("a finder of objects", ("parallax.preference.judges.detector", "parallax.models"), _any_of("found")),
    "infusion": Kind("an infusion", ("parallax.preference.infusion",), _any_of("request")),
    "objective": Kind("an objective", ("lightning_modules.objectives",), _any_of("losses", "__call__")),
    "suite": Kind("an evaluation suite", ("parallax.evaluation",), _any_of("score"), ("ScoredSuite", "Suite", "GroupedSuite")),
    "harness": Kind("a harness", ("parallax.evaluation.harnesses",), _any_of("command")),
    "grading": Kind("a grading", ("parallax.evaluation.judged",), _any_of("ask+scores")),
    "client": Kind("a judge's client", ("parallax.evaluation.judged.client",), _any_of("verdicts")),
    "rewrite": Kind("a rewriting", ("parallax.preference",), _any_of("__call__")),
    "image_text": Kind("an image-text model", ("parallax.models",), _any_of("cosines")),
    "images": Kind("an image", ("parallax.records.images", "datamodules.formats"), _any_of("load+digest")),
    "function": Kind(
        "a function of texts and samples",
        ("parallax.evaluation", "datamodules.shapes.language", "datamodules.shapes.hallucinate"),
        _any_of("__call__"),
        ("Scores", "list[Scores]", "list[str]", "bool", "str", "str | None", "CocoWords", "dict[str, tuple[float, float]]",
         "list[dict[str, tuple[float, float]]]"),
    ),
}  # fmt: skip
KINDS["record"] = Kind("plain data", tuple({place for kind in KINDS.values() for place in kind.places}), plain=True)

# What a key of a configuration, or an argument of a part, holds. Others may hold a part of any kind.
HOLDS: dict[str, tuple[str, ...]] = {
    "data": ("source",), "samples": ("source",), "aug": ("view",), "view": ("view",), "views": ("view",), "noise": ("view",),
    "proposer": ("proposer",), "judge": ("judge", "client"), "selector": ("selector",), "infusion": ("infusion",),
    "keep": ("keep",), "finder": ("finder",), "best_by": ("judge",),
    "loss": ("objective",), "base": ("objective",), "objective": ("objective",), "suites": ("suite",),
    "harnesses": ("harness",), "protocol": ("grading",), "rewrite": ("rewrite", "function"),
    "image_text": ("image_text",),
    "asker": ("asker",), "images": ("images",),
    "extract": ("function",), "same": ("function",), "scorer": ("function",), "words": ("function",),
}  # fmt: skip


def require_part(target: str, path: str | None = None, kinds: tuple[str, ...] = ()) -> None:
    """Raises `UnknownTarget` unless `target` is a part of one of `kinds` (of any kind where none is given).

    Args:
        target: `_target_` of the node.
        path: its `path`, where the target gives a function by name.
    """
    kinds = kinds or tuple(KINDS)
    if target == GET_METHOD:
        if "function" not in kinds:
            raise UnknownTarget(f"a function is no {_words(kinds)}")
        target, kinds = str(path), ("function",)
    require_own(target)
    module, _, name = target.rpartition(".")
    node, defined_in = definition(module, name)
    if not any(_is_part(node, defined_in, KINDS[kind]) for kind in kinds):
        what = "it is" if kinds == tuple(KINDS) else f"it is not {_words(kinds)}, and"
        raise UnknownTarget(f"{what} no part that a configuration may have built here")


def kinds_at(path: str) -> tuple[str, ...]:
    """The kinds that a key such as `stages.align.proposer` or `aug.views.0` may hold; () for any."""
    names = [name for name in path.split(".") if not name.isdigit() and not name.startswith("_")]
    if len(names) > 1 and names[-2] in ("suites", "harnesses"):
        return HOLDS[names[-2]]
    return HOLDS.get(names[-1], ()) if names else ()


def nodes(
    value: object, path: str, rule: Rule = ANYTHING, depth: int = 0
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every mapping with a `_target_` in `value`, wherever it stands: arguments, `_args_`, lists, mappings.

    Each with its key, and the class that the argument of the part around it asks for ("" where it asks for none).
    """
    if depth > DEEPEST:
        raise UnknownTarget(f"{path} is nested more than {DEEPEST} deep")
    form = rule.form_for(value)
    if isinstance(value, Mapping):
        takes = signature(str(value["_target_"])) if "_target_" in value else None
        if takes is not None:
            yield path, value, form.of
        for name, item in value.items():
            inner = takes.rule(str(name)) if takes else form.items or ANYTHING
            yield from nodes(item, f"{path}.{name}", inner, depth + 1)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from nodes(item, f"{path}.{place}", form.items or ANYTHING, depth + 1)


def require_parts(node: object, key: str) -> None:
    """Raises `UnknownTarget`, naming the key, unless all that `node` would have built are parts, of a kind that fits."""
    for path, inner, of in nodes(node, key):
        try:
            require_fitting(inner, path, of)
        except UnknownTarget as error:
            raise UnknownTarget(f"{path} names {named(inner)!r}: {error}") from error


def require_fitting(node: Mapping[str, Any], path: str, of: str = "") -> None:
    """Raises `UnknownTarget` unless a node may be built where it stands: as a part of the kind that its key holds.

    Args:
        node: with `_target_`.
        path: its key.
        of: where it is an argument of another part, the class that the argument's annotation asks for. That, and not how the
            argument is called, then says what it may be.
    """
    target = str(node["_target_"])
    if not of or re.fullmatch(_ALONE, path):
        require_part(target, node.get("path"), kinds_at(path))
    elif is_function(target) or not is_a(target, of):
        require_part(target, node.get("path"))


def named(node: Mapping[str, Any]) -> str:
    """What a node names: its `_target_`, or the function that it gives by name."""
    return str(node.get("path") if node["_target_"] == GET_METHOD else node["_target_"])


def _words(kinds: tuple[str, ...]) -> str:
    return or_list([KINDS[kind].words for kind in kinds])


def _is_part(node: Definition, module: str, kind: Kind) -> bool:
    if not any(module == place or module.startswith(f"{place}.") for place in kind.places):
        return False
    if isinstance(node, ast.FunctionDef):
        said = node.returns is not None and ast.unparse(node.returns).strip("'\"") in kind.returns
        return said or (bool(kind.methods) and _returns_part(node, module, kind))
    methods = _methods(node, module)
    if kind.plain:
        return is_dataclass(node) and not methods
    return not kind.methods or any(wanted <= methods for wanted in kind.methods)


def _returns_part(node: ast.FunctionDef, module: str, kind: Kind) -> bool:
    """Whether a function says that it makes a part of this kind."""
    returned = returned_class(node, module)
    made = definition(*returned.rsplit(".", 1)) if returned else None
    return made is not None and isinstance(made[0], ast.ClassDef) and _is_part(*made, kind)


def _methods(node: ast.ClassDef, module: str) -> frozenset[str]:
    """Names of a class's methods, with those of the bases that are ours."""
    return frozenset(
        member.name for found, _ in line(node, module) for member in found.body if isinstance(member, ast.FunctionDef)
    )
