"""Classes, functions and annotations of our packages as their source says them: no import, so checking never loads torch."""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Union

from parallax.settings.annotated_rules import SourceClass
from parallax.settings.suggestions import closest, or_list

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("parallax", "augment", "lightning_modules", "datamodules")  # code a configuration may name
LIGHT = {"typing", "collections.abc", "annotated_types", "pathlib", "parallax.settings.ranges"}  # may be imported
Definition = ast.ClassDef | ast.FunctionDef
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
}  # fmt: skip


class UnknownTarget(ValueError):
    """A `_target_` that may not be named or does not exist; the message is a sentence without the key."""


class NoConstant(ValueError):
    """An expression whose value cannot be told from the source."""


@cache
def tree(module: str) -> ast.Module:
    """The source of a module of ours, parsed. Raises UnknownTarget when there is none."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    raise UnknownTarget(f"there is no module {module}")


@cache
def _names(module: str) -> dict[str, ast.stmt]:
    """What each name at the top of a module stands for; imports for type checkers count."""
    found: dict[str, ast.stmt] = {}
    for node in _statements(tree(module).body):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                found[name] = node
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {(alias.asname or alias.name.split(".")[0]): node for alias in names}
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements(node.body)
        else:
            yield node


def _origin(node: ast.ImportFrom | ast.Import, name: str) -> tuple[str, str] | None:
    """Module and name there of what an import calls `name`; None for whole modules and relative imports."""
    if isinstance(node, ast.Import) or node.module is None or node.level:
        return None
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
    return node.module, original


def definition(module: str, name: str, depth: int = 0) -> tuple[Definition, str]:
    """A class or function and the module it stands in, followed through re-exports. Raises UnknownTarget."""
    node = _names(module).get(name)
    if isinstance(node, Definition):
        return node, module
    if isinstance(node, ast.ImportFrom) and depth < 5:
        origin = _origin(node, name)
        if origin is not None and origin[0].split(".")[0] in PACKAGES:
            return definition(*origin, depth + 1)
    known = [
        name
        for name, node in _names(module).items()
        if isinstance(node, Definition | ast.ImportFrom) and name[0] != "_"
    ]
    near = closest(name, known)
    raise UnknownTarget(f"there is no {name} in {module}" + (f"; did you mean {or_list(near)}?" if near else ""))


def bases(node: ast.ClassDef, module: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """The classes of ours that a class is derived from directly, in order."""
    for base in node.bases:
        bare = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(bare, ast.Name):
            try:
                found, where = definition(module, bare.id)
            except UnknownTarget:
                continue
            if isinstance(found, ast.ClassDef):
                yield found, where


def line(node: ast.ClassDef, module: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """A class and all it is derived from, nearest first."""
    yield node, module
    for base, where in bases(node, module):
        yield from line(base, where)


def annotation(node: ast.expr | None, module: str, depth: int = 0) -> Any:
    """What an annotation means, as `typing` says it; classes of ours as stand-ins, what is not known as `Any`."""
    if depth > 20 or node is None:
        return Any
    match node:
        case ast.Constant(value=str() as text):
            return annotation(ast.parse(text, mode="eval").body, module, depth + 1)
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _named(name, module, depth)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            where = _module(_names(module).get(name), name)
            if where in LIGHT:
                return getattr(import_module(where), attribute, Any)
            return _named(attribute, where, depth + 1) if where.split(".")[0] in PACKAGES and _is_there(where) else Any
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            forms = (annotation(left, module, depth + 1), annotation(right, module, depth + 1))
            return Union[forms]  # type: ignore[return-value]  # noqa: UP007
        case ast.Subscript(value=outer, slice=inner):
            return _subscript(annotation(outer, module, depth + 1), inner, module, depth)
        case _:
            return Any


def _module(node: ast.stmt | None, name: str) -> str:
    """The module that an import calls `name`; "" for what is none."""
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.asname == name or alias.name == name), "")
    return ".".join(_origin(node, name) or ()) if isinstance(node, ast.ImportFrom) else ""


def _is_there(module: str) -> bool:
    try:
        return tree(module) is not None
    except UnknownTarget:
        return False


def _subscript(outer: Any, inner: ast.expr, module: str, depth: int) -> Any:
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    try:
        if outer is Literal:
            return Literal[tuple(constant(item, module) for item in items)]  # type: ignore[misc]
        if outer is Annotated:
            marks = [_or_none(item, module) for item in items[1:]]  # a mark that the source does not tell says nothing
            return Annotated[(annotation(items[0], module, depth + 1), *marks)]  # type: ignore[misc]
    except NoConstant:
        return Any
    if outer is Any or outer is Callable or (isinstance(outer, type) and issubclass(outer, SourceClass)):
        return outer
    given = tuple(annotation(item, module, depth + 1) for item in items)
    try:
        return outer[given[0] if len(given) == 1 else given]
    except TypeError:
        return Any


def _named(name: str, module: str, depth: int) -> Any:
    node = _names(module).get(name)
    match node:
        case None:
            return getattr(builtins, name, Any) if name != "Any" else Any
        case ast.ClassDef():
            return _class(node, module)
        case ast.Assign(value=value) | ast.AnnAssign(value=value):
            return annotation(value, module, depth + 1)
        case ast.ImportFrom() if (origin := _origin(node, name)) is not None:
            where, original = origin
            if where in LIGHT:
                return getattr(import_module(where), original, Any)
            if where.split(".")[0] in PACKAGES:
                try:
                    return _named(original, where, depth + 1) if depth < 20 else Any
                except UnknownTarget:
                    return Any
    return Any


def _class(node: ast.ClassDef, module: str) -> Any:
    names = {ast.unparse(base).split("[")[0].rpartition(".")[2] for base in node.bases}
    if "TypedDict" in names:
        fields = {
            member.target.id: annotation(member.annotation, module)
            for member in node.body
            if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
        }
        return TypedDict(node.name, fields)  # type: ignore[operator]
    return _stand_in("" if "Protocol" in names else f"{module}.{node.name}")


@cache
def _stand_in(target: str) -> type:
    return type(target.rpartition(".")[2] or "Protocol", (SourceClass,), {"target": target})


def constant(node: ast.expr, module: str) -> Any:
    """The value of an expression of literals, module constants and words of `annotated-types`. Raises NoConstant."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -constant(operand, module)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](constant(left, module), constant(right, module))
        case ast.Tuple(elts=items):
            return tuple(_constants(items, module))
        case ast.List(elts=items):
            return list(_constants(items, module))
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {
                constant(key, module): _or_none(value, module) for key, value in zip(keys, values, strict=True) if key
            }
        case ast.Name(id=name):
            return _constant_named(name, module)
        case ast.Call(func=ast.Name() | ast.Attribute() as called, args=positional, keywords=keywords):
            word = annotation(called, module)
            if getattr(word, "__module__", "") not in LIGHT:
                raise NoConstant(ast.unparse(node))
            named = {keyword.arg: constant(keyword.value, module) for keyword in keywords if keyword.arg}
            return word(*_constants(positional, module), **named)
    raise NoConstant(ast.unparse(node))


def _constants(items: list[ast.expr], module: str) -> Iterator[Any]:
    for item in items:
        if isinstance(item, ast.Starred):
            yield from constant(item.value, module)
        else:
            yield constant(item, module)


def _or_none(node: ast.expr, module: str) -> Any:
    try:
        return constant(node, module)
    except NoConstant:
        return None


def _constant_named(name: str, module: str) -> Any:
    node = _names(module).get(name)
    match node:
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return constant(value, module)
        case ast.ImportFrom() if (origin := _origin(node, name)) is not None:
            where, original = origin
            if where in LIGHT:
                return getattr(import_module(where), original)
            if where.split(".")[0] in PACKAGES:
                return _constant_named(original, where)
    raise NoConstant(name)
