"""The rooms of docs/architecture.md: a room imports only from rooms above it, and the light rooms import nothing heavy."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [  # from the ground up
    "parallax/records",
    "parallax/settings",
    "augment",
    "parallax/models",
    "parallax/preference",
    "parallax/evaluation",
    "lightning_modules",
    "datamodules",
    "parallax/reports",
    "parallax/small_world",
    "parallax/tasks",
]
OURS = {"parallax", "augment", "lightning_modules", "datamodules"}
HEAVY = {"torch", "torchvision", "transformers", "peft", "pytorch_lightning", "wandb", "datasets", "pandas", "pyarrow"}


def imported_modules(tree: ast.AST) -> set[str]:
    """Every absolute module name imported anywhere under `tree`, functions included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    """The room a module of ours belongs to; None for modules of no room (`parallax` itself) and for other people's."""
    if module.split(".")[0] not in OURS:
        return None
    path = module.replace(".", "/")
    return next((room for room in ROOMS if path == room or path.startswith(room + "/")), None)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_below_it(room: str) -> None:
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    wrong = []
    for path in (ROOT / room).rglob("*.py"):
        for module in imported_modules(ast.parse(path.read_text())):
            target = room_of(module)
            if target is not None and target not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, wrong


@pytest.mark.parametrize("room", ["parallax/records", "parallax/settings"])
def test_light_rooms_import_nothing_heavy_when_they_are_imported(room: str) -> None:
    wrong = []
    for path in (ROOT / room).rglob("*.py"):
        tree = ast.parse(path.read_text())
        at_import_time = ast.Module(
            [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], type_ignores=[]
        )
        heavy = {name.split(".")[0] for name in imported_modules(at_import_time)} & HEAVY
        if heavy:
            wrong.append(f"{path.relative_to(ROOT)} imports {sorted(heavy)} when it is imported")
    assert not wrong, wrong


def test_every_python_file_of_ours_lives_in_a_room() -> None:
    strays = []
    for top in OURS:
        for path in (ROOT / top).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if room_of(module) is None and module not in OURS:
                strays.append(module)
    assert not strays, strays


def test_no_page_has_marks_of_an_unfinished_merge() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    marked = [page.name for page in pages if re.search(r"^(<{7}|>{7}) ", page.read_text("utf-8"), re.MULTILINE)]
    assert len(pages) > 50 and not marked
