"""docs/reliability.md promises only what a test holds: every test it names is there, and its table is that of the records."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.faults import records_in
from tests.reliability.table import BEGIN, END, RECORDS, files_with_faults, rows_of, table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
NAMED = re.compile(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`")


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 40
    for file, test in named:
        path = ROOT / "tests" / file
        assert path.is_file(), f"{file} is no test file"
        assert not test or test in names_in(path), f"{file} has no {test}"


def test_every_promise_names_a_test() -> None:
    promises = [
        line
        for line in PAGE.partition("## What was injected")[0].splitlines()
        if re.match(r"\| (?!promise|found|---)", line)
    ]
    assert len(promises) > 60
    for promise in promises:
        assert NAMED.search(promise.rpartition(" | ")[2]), f"no test holds this: {promise}"


def test_the_table_is_that_of_the_records() -> None:
    shown = PAGE.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table(records_in(RECORDS).values()).strip(), "make faults ARGS=--table writes it"


def test_records_are_of_tests_that_are_there_and_none_has_a_loss() -> None:
    records = records_in(ROOT / "tests" / "reliability" / "records")
    for node in records:
        file, _, test = node.partition("::")
        assert file in files_with_faults() and re.sub(r"\[.*", "", test, flags=re.DOTALL) in names_in(ROOT / file), node
    assert sum(row.outcomes["lost"] for row in rows_of(records.values()).values()) == 0


@pytest.mark.parametrize("lost", [0, 1])
def test_a_loss_is_seen_in_the_table(lost: int) -> None:
    outcomes = {"same": 1, **({"lost": 1} if lost else {})}
    fault = {"kind": "k", "outcomes": outcomes, "says": "s", "where": {"x": 1}, "numbers": {"m": 3}}
    made_with = {"code": "c", "commit": "d", "versions": {"python": "3"}, "date": "2026-01-01 00:00"}
    record = {"test": "tests/a/test_b.py::test_c[1]", "faults": [fault], **made_with}
    text = table([record, record])
    assert ("| k | 2 | 2 |" in text) is not lost and ("**2 lost.**" in text) is bool(lost)
    assert "s; m: 3" in text and "`a/test_b.py::test_c`" in text and "x 2" in text
