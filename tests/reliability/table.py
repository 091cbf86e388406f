"""Runs every test of this folder, the slow ones too, and writes what they injected and what came of it into docs/reliability.md.

make faults                                   # all of it: about half an hour on one core
python -m tests.reliability.table -m "not slow"  # what `make test` injects; further words go to pytest
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table of faults: begin (written by `make faults`) -->", "<!-- table of faults: end -->"


def main(words: list[str]) -> int:
    """Exit status of pytest; the page is written only when every test has passed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "faults.jsonl")
        command = [sys.executable, "-m", "pytest", "-q", "tests/reliability", *words]
        status = subprocess.run(command, cwd=ROOT, env={**os.environ, "PARALLAX_FAULTS": str(file)}).returncode
        if status == 0:
            notes = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
            PAGE.write_text(with_table(PAGE.read_text("utf-8"), table(notes)), "utf-8")
    return status


def table(notes: list[dict[str, object]]) -> str:
    """One row for each kind of fault and outcome."""
    times: dict[tuple[str, str, str], int] = defaultdict(int)
    for note in notes:
        test = str(note["test"]).removeprefix("tests/reliability/")
        times[str(note["kind"]), str(note["outcome"]), test] += int(str(note["times"]))
    rows = ["| fault | injected | outcome | test |", "|---|--:|---|---|"]
    rows += [f"| {kind} | {count:,} | {outcome} | `{test}` |" for (kind, outcome, test), count in sorted(times.items())]
    total, day = sum(times.values()), time.strftime("%Y-%m-%d")
    return "\n".join([*rows, "", f"{total:,} faults on {day}: nothing lost, nothing changed in silence."])


def with_table(page: str, rows: str) -> str:
    """The page with these rows between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
