"""`make faults`: runs every test that injects faults, the slow ones too, and writes what came of them into docs/reliability.md.

make faults                          # goes on where it was stopped: a test that has a record without losses is not run again
make faults ARGS="--afresh"          # forget the records first
make faults ARGS="-m 'not slow'"     # only what `make test` injects; further words go to pytest
make faults ARGS=tests/reliability/test_fuzz.py  # only one file
make faults ARGS="--table"           # run nothing: only write the table from the records

Each test adds its record to tests/reliability/records/ when it ends (`tests/faults.py`). The table is made of the records alone.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import FOLDER, OUTCOMES, lossless, records_in

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RECORDS = Path(os.environ.get(FOLDER) or ROOT / "tests" / "reliability" / "records")
BEGIN, END = "<!-- table of faults: begin (written by `make faults`) -->", "<!-- table of faults: end -->"


@dataclass
class Row:
    """One kind of fault, over all tests that inject it."""

    outcomes: Counter[str] = field(default_factory=Counter)
    where: Counter[str] = field(default_factory=Counter)
    says: dict[str, None] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, None] = field(default_factory=dict)


def main(words: list[str]) -> int:
    """Exit status of pytest; the table shows what has a record by then, losses too, even when the series is interrupted."""
    if "--afresh" in words:
        shutil.rmtree(RECORDS, ignore_errors=True)
    status = 0
    if "--table" not in words:
        words = [word for word in words if word != "--afresh"]
        known = [node for node, record in records_in(RECORDS).items() if lossless(record)]
        done = [option for node in known for option in ("--deselect", node)]
        print(f"{len(known)} tests have a record and are not run again (--afresh forgets them)", flush=True)
        files = [] if any(word.startswith("tests/") for word in words) else files_with_faults()
        command = [sys.executable, "-m", "pytest", "-q", *files, *done, *words]
        try:
            status = subprocess.run(command, cwd=ROOT, env={**os.environ, FOLDER: str(RECORDS)}).returncode
        except KeyboardInterrupt:
            status = 130
    PAGE.write_text(with_table(PAGE.read_text("utf-8"), table(records_in(RECORDS).values())), "utf-8")
    return 0 if status == 5 else status  # 5: every test has its record


def files_with_faults() -> list[str]:
    """Test files with a test that injects faults."""
    files = (
        path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "injected: Injected" in path.read_text("utf-8")
    )
    return [str(path.relative_to(ROOT)) for path in files]


def tests_with_faults() -> list[str]:
    """Every test that injects faults, as the table names it."""
    found = []
    for file in files_with_faults():
        for node in ast.parse((ROOT / file).read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and "injected" in [argument.arg for argument in node.args.args]:
                found.append(f"{file.removeprefix('tests/')}::{node.name}")
    return found


def rows_of(records: Iterable[dict[str, Any]]) -> dict[str, Row]:
    """Kind → its row."""
    rows: dict[str, Row] = {}
    for record in records:
        for fault in record["faults"]:
            row = rows.setdefault(fault["kind"], Row())
            row.outcomes.update(fault["outcomes"])
            row.where.update(fault["where"])
            row.says.update({said: None for said in [fault["says"]] if said})
            row.numbers.update(fault["numbers"])
            row.tests[re.sub(r"\[.*", "", record["test"].removeprefix("tests/"), flags=re.DOTALL)] = None
    return rows


def table(records: Iterable[dict[str, Any]]) -> str:
    """One row for each kind of fault, and beneath it where faults met the runs and what the records were made with."""
    kept = list(records)
    rows = rows_of(kept)
    lines = [
        "| fault | injected | " + " | ".join(OUTCOMES.values()) + " | what came of it | test |",
        "|---|" + "--:|" * 5 + "---|---|",
    ]
    for kind, row in sorted(rows.items()):
        counts = [f"{row.outcomes[name]:,}" if row.outcomes[name] else "" for name in OUTCOMES]
        said = "; ".join([*row.says, *(f"{name.replace('_', ' ')}: {value}" for name, value in row.numbers.items())])
        tests = ", ".join(f"`{name}`" for name in row.tests)
        lines.append(
            "| " + " | ".join([kind, f"{row.outcomes.total():,}", *counts, said.replace("|", "\\|"), tests]) + " |"
        )
    everything = sum((row.outcomes for row in rows.values()), Counter[str]())
    lost = everything["lost"]
    lines += [
        "",
        f"{everything.total():,} faults: "
        + ("nothing lost, nothing changed in silence." if not lost else f"**{lost} lost.**"),
    ]
    if met := [(kind, row.where) for kind, row in sorted(rows.items()) if row.where]:
        lines += ["", "What runs were doing when they were hit:", ""]
        lines += [
            f"- {kind}: {', '.join(f'{place} {count}' for place, count in where.most_common())}" for kind, where in met
        ]
    recorded = {name for row in rows.values() for name in row.tests}
    if missing := [f"`{name}`" for name in tests_with_faults() if name not in recorded]:
        lines += ["", f"Without a record so far: {', '.join(missing)}."]
    return "\n".join([*lines, "", made_with_words(kept)])


def made_with_words(records: list[dict[str, Any]]) -> str:
    days = sorted({record["date"][:10] for record in records})
    codes = Counter(record["code"] for record in records)
    versions = (
        {name: sorted({record["versions"][name] for record in records}) for name in records[0]["versions"]}
        if records
        else {}
    )
    span = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "never"
    with_words = ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())
    return (
        f"{len(records)} records in `tests/reliability/records/` (command, commit, versions and seconds of each), {span}, of "
        f"{len(codes)} state{'s' * (len(codes) != 1)} of the code, with {with_words}."
    )


def with_table(page: str, rows: str) -> str:
    """The page with these rows between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
