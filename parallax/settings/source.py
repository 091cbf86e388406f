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

from parallax.settings.annotated_rules import SourceClass, words_of
from parallax.settings.suggestions import closest, or_list

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("parallax", "augment", "lightning_modules", "datamodules")  # code a configuration may name
LIGHT = {
    "typing",
    "collections.abc",
    "annotated_types",
    "pathlib",
    "math",
    "parallax.settings.ranges",
}  # may be imported
DEEPEST = 20  # names that stand for names
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
    for file in _files(module):
        if file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    raise UnknownTarget(f"there is no module {module}")


def _files(module: str) -> tuple[Path, Path]:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py"), path / "__init__.py"


@cache
def _is_there(module: str) -> bool:
    return module.split(".")[0] in PACKAGES and any(file.is_file() for file in _files(module))


def _is_ours(module: str) -> bool:
    return module not in LIGHT and _is_there(module)


@cache
def _names(module: str) -> dict[str, ast.stmt]:
    """What each name at the top of a module stands for; imports for type checkers count, and so does `from … import *`."""
    found: dict[str, ast.stmt] = {}
    for node in _statements(tree(module).body):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                found[name] = node
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                origin = _origin(node, module)
                public = [name for name in _names(origin) if name[0] != "_"] if _is_there(origin) else []
                found |= {name: ast.ImportFrom(origin, [ast.alias(name)], 0) for name in public}
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {(alias.asname or alias.name.split(".")[0]): node for alias in names}
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        match node:
            case ast.If():
                yield from _statements([*node.orelse, *node.body])
            case ast.Try():
                yield from _statements([*node.body, *node.orelse])
            case _:
                yield node


def _origin(node: ast.ImportFrom, module: str) -> str:
    """The module that a `from … import` reads from; the dots of a relative one lead up from where it is written."""
    if not node.level:
        return node.module or ""
    inside = module.split(".") if not _files(module)[0].is_file() else module.split(".")[:-1]
    above = inside[: len(inside) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def path_of(expression: ast.expr, module: str, depth: int = 0) -> str:
    """The dotted path of what `name` or `module.name` stands for where it is written; "" for anything else."""
    match expression:
        case ast.Name(id=name):
            return followed(f"{module}.{name}", depth)
        case ast.Attribute(value=value, attr=name) if above := path_of(value, module, depth):
            return followed(f"{above}.{name}", depth)
        case _:
            return ""


def followed(path: str, depth: int = 0) -> str:
    """A dotted path with imports and other names for the same followed to where the thing is written, or leaves our code."""
    module, _, name = path.rpartition(".")
    if depth > DEEPEST or not _is_ours(module):
        return path
    match _names(module).get(name):
        case None:
            return f"builtins.{name}" if hasattr(builtins, name) and not _is_there(path) else path
        case ast.Import(names=names):
            full = next((alias.name for alias in names if alias.asname == name), name)
            return followed(full, depth + 1)
        case ast.ImportFrom(names=names) as node:
            original = next(alias.name for alias in names if (alias.asname or alias.name) == name)
            return followed(f"{_origin(node, module)}.{original}", depth + 1)
        case ast.Assign(value=ast.Name() | ast.Attribute() as value):
            return path_of(value, module, depth + 1) or path
    return path


def _written(path: str) -> tuple[ast.stmt | None, str]:
    """The statement of ours that a followed path leads to, and its module."""
    module, _, name = path.rpartition(".")
    return (_names(module).get(name) if _is_ours(module) else None), module


def _light(path: str) -> Any:
    """What a path outside our code is, where looking costs nothing; else `Any`."""
    module, _, name = path.replace("typing_extensions.", "typing.").rpartition(".")
    return getattr(import_module(module), name, Any) if module in LIGHT or module == "builtins" else Any


def definition(module: str, name: str) -> tuple[Definition, str]:
    """A class or function and the module it stands in, imports and `partial` followed. Raises UnknownTarget."""
    node, where = _written(followed(f"{module}.{name}"))
    if isinstance(node, Definition):
        return node, where
    if (call := partial_call(node, where)) is not None and (path := path_of(call.args[0], where)):
        return definition(*path.rsplit(".", 1))
    known = [
        name
        for name, node in (_names(module) if _is_there(module) else {}).items()
        if isinstance(node, Definition | ast.ImportFrom) and name[0] != "_"
    ]
    tree(module)
    near = [each for each in closest(name, known) if each != name]
    raise UnknownTarget(f"there is no {name} in {module}" + (f"; did you mean {or_list(near)}?" if near else ""))


def partial_call(node: ast.stmt | None, module: str) -> ast.Call | None:
    """The call in `Name = functools.partial(Class, argument=…)`; None for any other statement."""
    match node:
        case ast.Assign(value=ast.Call(func=func, args=[_, *_]) as call) if (
            path_of(func, module) == "functools.partial"
        ):
            return call
    return None


def partials(target: str) -> Iterator[tuple[ast.Call, str]]:
    """The calls of `functools.partial` between a dotted path and the class or function behind it, with their modules."""
    node, where = _written(followed(target))
    if (call := partial_call(node, where)) is not None:
        yield call, where
        yield from partials(path_of(call.args[0], where))


def bases(node: ast.ClassDef, module: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """The classes of ours that a class is derived from directly, in order."""
    for base in node.bases:
        found, where = _written(path_of(base.value if isinstance(base, ast.Subscript) else base, module))
        if isinstance(found, ast.ClassDef):
            yield found, where


def line(node: ast.ClassDef, module: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """A class and all it is derived from, nearest first."""
    yield node, module
    for base, where in bases(node, module):
        yield from line(base, where)


def annotation(node: ast.expr | None, module: str, depth: int = 0) -> Any:
    """What an annotation means, as `typing` says it; classes of ours as stand-ins, what is not known as `Any`."""
    if depth > DEEPEST or node is None:
        return Any
    match node:
        case ast.Constant(value=str() as text):
            return annotation(ast.parse(text, mode="eval").body, module, depth + 1)
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return _meant(path_of(node, module), depth)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            forms = (annotation(left, module, depth + 1), annotation(right, module, depth + 1))
            return Union[forms]  # type: ignore[return-value]  # noqa: UP007
        case ast.Subscript(value=outer, slice=inner):
            return _subscript(annotation(outer, module, depth + 1), inner, module, depth)
        case _:
            return Any


def _meant(path: str, depth: int) -> Any:
    node, where = _written(path)
    match node:
        case None:
            return _light(path)
        case ast.ClassDef():
            return _class(node, where)
        case ast.Assign(value=value) | ast.AnnAssign(value=value):
            return annotation(value, where, depth + 1)
    return Any


def _subscript(outer: Any, inner: ast.expr, module: str, depth: int) -> Any:
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    try:
        if outer is Literal:
            return Literal[tuple(constant(item, module) for item in items)]  # type: ignore[misc]
        if outer is Annotated:
            marks = [
                constant_or_none(item, module) for item in items[1:]
            ]  # a mark that the source does not tell says nothing
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


def _class(node: ast.ClassDef, module: str) -> Any:
    above = {path_of(base.value if isinstance(base, ast.Subscript) else base, module) for base in node.bases}
    names = {path.rpartition(".")[2] for path in above}
    if "TypedDict" in names:
        fields = {
            member.target.id: annotation(member.annotation, module)
            for member in node.body
            if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
        }
        return TypedDict(node.name, fields)  # type: ignore[operator]
    if above & {"enum.Enum", "enum.StrEnum", "enum.IntEnum"}:
        members = {
            target.id: constant_or_none(member.value, module)
            for member in node.body
            if isinstance(member, ast.Assign)
            for target in _targets(member)
        }
        lower = {
            name: name.lower() if value is None and "enum.StrEnum" in above else value
            for name, value in members.items()
        }
        return Literal[tuple(words_of(lower))]  # type: ignore[misc]
    return _stand_in("" if "Protocol" in names else f"{module}.{node.name}")


def returned_class(node: ast.FunctionDef, module: str) -> str:
    """The dotted path of the class of ours that a function says it returns; "" for any other."""
    returned = annotation(node.returns, module)
    return returned.target if isinstance(returned, type) and issubclass(returned, SourceClass) else ""


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
                constant(key, module): constant_or_none(value, module)
                for key, value in zip(keys, values, strict=True)
                if key
            }
        case ast.Name() | ast.Attribute():
            return _constant_at(path_of(node, module))
        case ast.Call(func=ast.Name() | ast.Attribute() as called, args=positional, keywords=keywords):
            word = annotation(called, module)
            if word is Any or getattr(word, "__module__", "") not in LIGHT:
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


def constant_or_none(node: ast.expr, module: str) -> Any:
    """As `constant`; None for what the source does not tell."""
    try:
        return constant(node, module)
    except NoConstant:
        return None


def _constant_at(path: str) -> Any:
    node, where = _written(path)
    if node is None:  # in a class of ours, or not ours
        owner, _, name = path.rpartition(".")
        above, where = _written(owner)
        body = {target.id: member for member in getattr(above, "body", ()) for target in _targets(member)}
        node = body.get(name)
    match node:
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return constant(value, where)
    if node is None and (known := _light(path)) is not Any:
        return known
    raise NoConstant(path)


def _targets(node: ast.stmt) -> list[ast.Name]:
    named = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target for target in named if isinstance(target, ast.Name)]
