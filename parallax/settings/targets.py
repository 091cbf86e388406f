"""What a `_target_` takes, read from its source: no import, so checking a configuration never loads torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from parallax.settings.suggestions import closest, or_list

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("parallax", "augment", "lightning_modules", "datamodules")  # code a configuration may name
OUTSIDE = {"hydra.utils.get_method": ("path",)}  # and the few functions of others, with their arguments


class UnknownTarget(ValueError):
    """A `_target_` that may not be named or does not exist; the message is a sentence without the key."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Arguments of a class or function."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    open: bool = False  # takes any further keyword


@cache
def signature(target: str) -> Signature:
    """The arguments of `package.module.Name`. Raises `UnknownTarget` when it may not be named or is not there."""
    if target in OUTSIDE:
        return Signature(OUTSIDE[target], OUTSIDE[target])
    require_own(target)
    module, _, name = target.rpartition(".")
    return _arguments(*_definition(module, name))


def require_own(target: str) -> None:
    """Raises `UnknownTarget` unless the dotted path leads into one of our packages, to a public name."""
    parts = target.split(".")
    if parts[0] not in PACKAGES or len(parts) < 2:
        raise UnknownTarget(f"only code in {or_list(PACKAGES)} (or {or_list(OUTSIDE)}) may be named in a configuration")
    if any(not part.isidentifier() or part.startswith("_") for part in parts):
        raise UnknownTarget("it is no dotted path of public names")


Definition = ast.ClassDef | ast.FunctionDef


def _definition(module: str, name: str, depth: int = 0) -> tuple[Definition, str]:
    """The definition and the module it stands in, followed through re-exports."""
    body = _source(module).body
    names = []
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if node.name == name:
                return node, module
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0 and depth < 5:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.split(".")[0] in PACKAGES:
                    return _definition(node.module, alias.name, depth + 1)
                names.append(alias.asname or alias.name)
    near = closest(name, [known for known in names if not known.startswith("_")])
    raise UnknownTarget(f"there is no {name} in {module}" + (f"; did you mean {or_list(near)}?" if near else ""))


@cache
def _source(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    raise UnknownTarget(f"there is no module {module}")


def _arguments(node: Definition, module: str) -> Signature:
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, skip=0)
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return _of_function(member, skip=1)
    own = _fields(node) if any(_is_dataclass(decorator) for decorator in node.decorator_list) else []
    inherited = Signature((), ())
    for base in node.bases:
        found = _base(base, module)
        if found is not None and (found.names or found.open):
            inherited = found
            break
    names = [*inherited.names, *(name for name, _ in own if name not in inherited.names)]
    required = [*inherited.required, *(name for name, needed in own if needed)]
    return Signature(tuple(names), tuple(required), inherited.open)


def _base(base: ast.expr, module: str) -> Signature | None:
    if not isinstance(base, ast.Name):
        return None
    try:
        return _arguments(*_definition(module, base.id))
    except UnknownTarget:
        return None


def _of_function(node: ast.FunctionDef, skip: int) -> Signature:
    plain = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)][skip:]
    needed = plain[: len(plain) - len(node.args.defaults)]
    keyword = [argument.arg for argument in node.args.kwonlyargs]
    needed += [name for name, default in zip(keyword, node.args.kw_defaults, strict=True) if default is None]
    return Signature((*plain, *keyword), tuple(needed), node.args.kwarg is not None)


def _fields(node: ast.ClassDef) -> list[tuple[str, bool]]:
    fields = []
    for member in node.body:
        if not isinstance(member, ast.AnnAssign) or not isinstance(member.target, ast.Name):
            continue
        if "ClassVar" not in ast.unparse(member.annotation):
            fields.append((member.target.id, member.value is None))
    return fields


def _is_dataclass(decorator: ast.expr) -> bool:
    return "dataclass" in ast.unparse(decorator)
