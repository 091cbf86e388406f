"""How large the house is: `python -m tests.figures` prints lines, bare `Any`, second defaults, late imports, circles, and more.

All but the last are counted in the source. The files of a training step are seen: a small run of the built-in world is made, and
what of ours its second optimiser step enters is listed. `--still` leaves that run out.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from parallax.settings.source import NoConstant
from parallax.settings.targets import signature

ROOT = Path(__file__).resolve().parents[1]
OURS = ("parallax", "lightning_modules", "datamodules", "augment")
SMALL_RUN = [
    "experiment=quick", "data.size=24", "trainer.batch_size=8", "trainer.max_steps=2", "evaluation=none", "logger=csv",
]  # fmt: skip


def product_files() -> list[Path]:
    return sorted(file for package in OURS for file in (ROOT / package).rglob("*.py"))


def product_lines() -> int:
    return sum(len(file.read_text("utf-8").splitlines()) for file in product_files())


def bare_any() -> list[str]:
    """Parameters whose annotation is `Any` and nothing else, as file:line:name."""
    found = []
    for file in product_files():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args
                named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                found += [
                    f"{file.relative_to(ROOT)}:{argument.lineno}:{argument.arg}"
                    for argument in named
                    if isinstance(argument.annotation, ast.Name) and argument.annotation.id == "Any"
                ]
    return found


def second_defaults() -> list[str]:
    """Arguments of parts whose default in code repeats the value that conf/ gives them, as file:key.

    Defaults that mean "none of it" (null, false, 0, empty, all, auto) are not counted.
    """
    found = []
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        for node in _nodes(yaml.safe_load(file.read_text("utf-8"))):
            for name, argument in signature(str(node["_target_"])).arguments.items():
                try:
                    default = argument.default
                except NoConstant:
                    continue
                given = node.get(name)
                same = given == (list(default) if isinstance(default, tuple) else default)
                if same and given and given not in ("all", "auto", "none"):
                    found.append(f"{file.relative_to(ROOT)}:{str(node['_target_']).rpartition('.')[2]}.{name}")
    return found


def _nodes(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and isinstance(value.get("_target_"), str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(item)


def late_imports(folder: str = "parallax/tasks") -> list[str]:
    """Imports of our own code inside functions, as file:line."""
    found = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [
                    f"{file.relative_to(ROOT)}:{node.lineno}"
                    for node in ast.walk(function)
                    if any(name.split(".")[0] in OURS for name in _names(node))
                ]
    return sorted(set(found))


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return [node.module]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def circles() -> list[list[str]]:
    """Groups of modules that import each other at their top level (not under TYPE_CHECKING, not in functions)."""
    modules = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in product_files()
    }
    above = {name: set(_imported(file, modules)) - {name} for name, file in modules.items()}
    reach = {name: _reachable(name, above) for name in modules}
    groups: list[list[str]] = []
    for name in modules:
        group = sorted(other for other in reach[name] if name in reach[other])
        if len(group) > 1 and group not in groups:
            groups.append(group)
    return groups


def _imported(file: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.parse(file.read_text("utf-8")).body:
        for name in _names(node):
            if isinstance(node, ast.ImportFrom):
                members = [f"{name}.{alias.name}" for alias in node.names]
                submodules = [member for member in members if member in modules]
                yield from submodules
                if len(submodules) < len(members) and name in modules:
                    yield name
            elif name in modules:
                yield name


def _reachable(start: str, above: dict[str, set[str]]) -> set[str]:
    seen, waiting = {start}, [start]
    while waiting:
        for name in above[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def training_step() -> dict[str, set[str]]:
    """Files of ours that one optimiser step of a small default run enters, each with its functions."""
    from lightning_modules.tuning import TuningModule
    from parallax.settings.command_line import compose_checked
    from parallax.tasks import run_task

    entered: dict[str, set[str]] = {}
    prefixes = tuple(f"{ROOT / package}/" for package in OURS)

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(prefixes) and not frame.f_code.co_name.startswith("<"):
            entered.setdefault(str(Path(file).relative_to(ROOT)), set()).add(frame.f_code.co_name)

    step = TuningModule.training_step

    def seen(self: TuningModule, *arguments: Any) -> Any:
        sys.setprofile(note if self.global_step == 1 else None)
        try:
            return step(self, *arguments)
        finally:
            sys.setprofile(None)

    TuningModule.training_step = seen  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        places = [f"paths.output_dir={folder}/run", f"paths.cache_dir={folder}/cache"]
        try:
            run_task(compose_checked([*SMALL_RUN, *places], ROOT / "conf"))
        finally:
            TuningModule.training_step = step  # type: ignore[method-assign]
    return entered


def main(arguments: list[str]) -> None:
    print(f"product lines           {product_lines():>7,}")
    print(f"bare Any parameters     {len(bare_any()):>7,}")
    print(f"second defaults         {len(second_defaults()):>7,}")
    print(f"late imports in tasks   {len(late_imports()):>7,}")
    print(f"circles of imports      {len(circles()):>7,}  {'; '.join(' ↔ '.join(group) for group in circles())}")
    if "--still" not in arguments:
        entered = training_step()
        print(f"files of a training step{len(entered):>7,}, functions {sum(map(len, entered.values())):,}")
        for file, functions in sorted(entered.items()):
            print(f"    {file}: {', '.join(sorted(functions))}")


if __name__ == "__main__":
    main(sys.argv[1:])
