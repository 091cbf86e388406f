"""How long `run.py` takes to its first generated token, and where the time goes: real processes, real log files.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --imports          # also: the slowest imports on the way, in one more process

Each round starts `python run.py experiment=quick` with an empty cache in a folder of its own, reads the milestones from the run's
`run.log`, and ends the process at its first token. The first round warms the disk cache and is not counted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if entry != str(ROOT / "benchmarks")),
]  # not this folder's names

from benchmarks.measure import parser, table, write_json

MILESTONES = {  # what it is -> how its line in run.log goes on
    "configuration composed, checked, run folder made": "run folder",
    "torch and transformers imported, model loaded": "policy ",
    "first token": "first token",
}
LIMIT = 300.0  # seconds after which a process that has not come to its first token is given up


def one_start(folder: Path, *extra: str) -> tuple[dict[str, tuple[float, float]], str]:
    """Seconds from the start of the process to each milestone and processor seconds spent by then; what it wrote to stderr."""
    arguments = [
        "experiment=quick", f"hydra.run.dir={folder}/run", f"paths.cache_dir={folder}/cache", "resume=never",
    ]  # fmt: skip
    errors = folder / "stderr.txt"
    began = time.time()
    with errors.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, *extra, str(ROOT / "run.py"), *arguments],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stream, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    spent: dict[str, float] = {}
    try:
        while True:
            found = _milestones(folder / "run" / "run.log", began)
            for name in found.keys() - spent.keys():
                spent[name] = _processor_seconds(process.pid)
            if len(found) == len(MILESTONES):
                return {name: (found[name], spent[name]) for name in MILESTONES}, errors.read_text(encoding="utf-8")
            if process.poll() is not None or time.time() - began > LIMIT:
                wrote = errors.read_text(encoding="utf-8")[-2000:]
                raise SystemExit(f"run.py did not come to its first token; it wrote:\n{wrote}")
            time.sleep(0.02)
    finally:
        process.terminate()
        process.wait()


def _processor_seconds(pid: int) -> float:
    """Processor time of a process and its threads so far, user and system; nan where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _milestones(log: Path, began: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        match = re.match(r"(\S+ \S+),(\d+) \S+ +\S+: (.*)", line)
        for name, start in MILESTONES.items():
            if match and match[3].startswith(start) and name not in found:
                at = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").timestamp() + int(match[2]) / 1000
                found[name] = at - began
    return found


def slowest_imports(errors: str, count: int = 12) -> list[tuple[str, float]]:
    """The modules whose import took longest, what they import included, from the output of `-X importtime`."""
    rows = re.findall(r"import time:\s+\d+ \|\s+(\d+) \|(\s+)(\S+)", errors)
    top = {name: int(total) / 1e6 for total, indent, name in rows if name.count(".") <= 1}
    return sorted(top.items(), key=lambda row: -row[1])[:count]


def main() -> None:
    """Measure, print one table, write the JSON."""
    options = parser(__file__, __doc__.splitlines()[0], rounds=3)
    options.add_argument("--imports", action="store_true", help="one more process: the slowest imports")
    asked = options.parse_args()
    starts: list[dict[str, tuple[float, float]]] = []
    for number in range(-asked.warmup, asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found, _ = one_start(Path(folder))
        print(", ".join(f"{name} {seconds:.2f} s" for name, (seconds, _) in found.items()), file=sys.stderr)
        if number >= 0:
            starts.append(found)
    middle = {name: [median(start[name][column] for start in starts) for column in (0, 1)] for name in MILESTONES}
    rows: list[list[object]] = []
    before = [0.0, 0.0]
    for name, (seconds, spent) in middle.items():
        rows.append([name, seconds, seconds - before[0], spent - before[1]])
        before = [seconds, spent]
    print(table(["milestone", "s after start", "s of its own", "of processor time"], rows))
    content: dict[str, object] = {"milestones": middle, "rounds": starts}
    if asked.imports:
        with tempfile.TemporaryDirectory() as folder:
            imports = slowest_imports(one_start(Path(folder), "-X", "importtime")[1])
        print(table(["import (with all it imports)", "s"], imports))
        content["imports"] = imports
    print(f"written to {write_json(asked.json, content)}")


if __name__ == "__main__":
    main()
