"""What the benchmarks share: both sides timed in turn, medians and their ratios, one table, one JSON file.

A claim is a ratio of medians measured in one run on one machine. The sides of a comparison take turns, so that whatever
else the machine does hits both; who goes first changes from round to round; warm-up rounds are run and not counted.

A benchmark is a script. Its first lines put the checkout on the path, so that it measures the code beside it, and take this
folder off it, since `profile.py` is called like a module of Python's own:

    ROOT = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]
    from benchmarks.measure import interleaved, medians, parser, table, write_json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "pytorch-lightning", "trl")


def interleaved(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 1,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, list[float]]:
    """Seconds of every counted round of every side; the sides take turns, forwards and backwards.

    Args:
        sides: name -> what is timed. On a GPU it has to wait for its own kernels before it returns.
        rounds: counted rounds, 1 or more.
        warmup: rounds run first and not counted, 0 or more.
        told: gets a line after each round, for the impatient.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds={rounds} must be at least 1 and warmup={warmup} at least 0")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-warmup, rounds):
        names = list(sides) if round_ % 2 == 0 else list(sides)[::-1]
        for name in names:
            began = time.perf_counter()
            sides[name]()
            seconds = time.perf_counter() - began
            if round_ >= 0:
                times[name].append(seconds)
            told(f"{'warm-up' if round_ < 0 else f'round {round_ + 1} of {rounds}'}: {name} {seconds:.3f} s")
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each side."""
    return {name: statistics.median(values) for name, values in times.items()}


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median: how quiet the machine was. 0.1 is quiet, 0.5 says measure again."""
    return (max(values) - min(values)) / statistics.median(values)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under a head as a Markdown table, columns aligned; floats with three significant digits."""
    cells = [[str(value) for value in head], *([_short(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, cores, threads, GPU, versions, and how busy it was."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def write_json(path: Path | str, content: Mapping[str, Any]) -> Path:
    """Write the content with the command line, the time and the machine; makes the folder. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    typed = " ".join(["python", *sys.argv])
    whole = {"command": typed, "time": time.strftime("%Y-%m-%d %H:%M:%S"), "machine": machine(), **content}
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return path


def parser(script: str, says: str, rounds: int = 5) -> argparse.ArgumentParser:
    """An argument parser with what every benchmark has: --rounds, --warmup, --threads and --json."""
    result = argparse.ArgumentParser(description=says, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--rounds", type=int, default=rounds, help="counted rounds of each side")
    result.add_argument("--warmup", type=int, default=1, help="rounds that are not counted")
    result.add_argument(
        "--threads", type=int, default=0, help="threads of torch for both sides; 0 = torch's own choice"
    )
    name = Path(script).stem
    result.add_argument("--json", type=Path, default=Path(f"outputs/benchmarks/{name}.json"), help="where numbers go")
    return result


def use_threads(count: int) -> int:
    """Set torch's threads where `count` is not 0; returns how many there are now."""
    import torch

    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
