"""Faults that tests inject are counted, with what came of each: `make faults` makes the table of docs/reliability.md from that.

    def test_a_full_disk_is_said(injected): ...; injected("disk full", told=2, says="a sentence with the file and what to do")

With PARALLAX_FAULTS naming a folder, each test that has passed adds lines to `<test file>.jsonl` there at once, and each that has
failed adds one with its loss. So a long series can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "PARALLAX_FAULTS"
OUTCOMES = {
    "same": "same result to the last bit",
    "told": "refused, set aside or stopped, in words",
    "used": "used as it is",
    "lost": "lost or changed in silence",
}
PACKAGES = ("torch", "transformers", "peft", "pytorch-lightning", "pyarrow", "pillow", "hydra-core", "hypothesis")
Injected = Callable[..., None]


@dataclass
class Noted:
    """What one test has injected so far."""

    began: float
    faults: list[dict[str, Any]] = field(default_factory=list)


NOTED = pytest.StashKey[Noted]()


@pytest.fixture
def injected(request: pytest.FixtureRequest) -> Iterator[Injected]:
    """`injected(kind, same=…, told=…, used=…, says=…, where=…, numbers=…)`: call it when the outcome has been asserted.

    kind: the fault, in words. same, told, used: how many came out so (`OUTCOMES`). says: what came of it, in words.
    where: what the run was doing, one word for each fault. numbers: measured ones, with their units in their names.
    """
    noted = request.node.stash.setdefault(NOTED, Noted(time.monotonic()))

    def note(
        kind: str,
        *,
        same: int = 0,
        told: int = 0,
        used: int = 0,
        says: str = "",
        where: tuple[str, ...] = (),
        **numbers: Any,
    ) -> None:
        assert same + told + used > 0, "nothing was injected"
        outcomes = {name: count for name, count in (("same", same), ("told", told), ("used", used)) if count}
        noted.faults.append(
            {"kind": kind, "outcomes": outcomes, "says": says, "where": dict(Counter(where)), "numbers": numbers}
        )

    yield note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Write down what came of a test's faults, as soon as it has ended."""
    report = yield
    noted, folder = item.stash.get(NOTED, None), os.environ.get(FOLDER)
    if noted is not None and folder and call.when == "call" and not report.skipped:
        faults = noted.faults
        if report.failed:
            why = str(call.excinfo.value).strip().split("\n")[0][:300] if call.excinfo else ""
            faults = [
                {
                    "kind": in_words(item.nodeid),
                    "outcomes": {"lost": 1},
                    "says": f"FAILED: {why}",
                    "where": {},
                    "numbers": {},
                }
            ]
        write_down(Path(folder), item.nodeid, faults, time.monotonic() - noted.began)
    return report


def write_down(folder: Path, node: str, faults: list[dict[str, Any]], seconds: float) -> None:
    """Add one line for this test to the record of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    line = {
        "test": node, "faults": faults, "seconds": round(seconds, 1), "command": f"python -m pytest '{node}'",
        "date": time.strftime("%Y-%m-%d %H:%M"), **made_with(),
    }  # fmt: skip
    name = node.partition("::")[0].removeprefix("tests/").removesuffix(".py").replace("/", "-")
    with open(folder / f"{name}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def records_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Test → its newest record. A line that was cut off counts for nothing."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            found[record["test"]] = record
    return found


def lossless(record: dict[str, Any]) -> bool:
    return not any("lost" in fault["outcomes"] for fault in record["faults"])


def in_words(node: str) -> str:
    return node.rpartition("::")[2].removeprefix("test_").replace("_", " ")


@lru_cache(maxsize=1)
def made_with() -> dict[str, Any]:
    """The state of the code and the versions under which a record is made."""
    from parallax.tasks.recipe import code_digest

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"code": code_digest()[:12], "commit": commit, "versions": {"python": platform.python_version(), **versions}}
