"""How soon `run.py` makes its first optimiser step on a large file of pairs, and how much memory it takes: real processes.

    python benchmarks/large_files.py
    python benchmarks/large_files.py --rows 200000

A Parquet file of a million rows (texts and paths) and a JSONL file of a million rows and 2 GB are written, and beside them one of
their first 64 rows. Each run is `python run.py method=dpo_file evaluation=none` on the built-in model with an empty cache; it is
ended at its second step. What a large file costs is the difference to the small one: the model and the libraries are in both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

from benchmarks.measure import parser, table, write_json

IMAGES, FEW, LIMIT = 200, 64, 600.0  # pictures that the rows share; rows of the small file; seconds


def rows(count: int, words: int) -> Iterator[dict[str, Any]]:
    """Pairs with answers of about so many words."""
    for number in range(count):
        yield {
            "idx": str(number), "image": f"{number % IMAGES:03}.png", "question": f"What is in picture {number}?",
            "chosen": f"Picture {number} shows a red square." + " It is red." * (words // 3),
            "rejected": f"Picture {number} shows a ship." + " It is old." * (words // 3),
        }  # fmt: skip


def write_images(folder: Path) -> None:
    """The pictures that the rows name."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for number in range(IMAGES):
        Image.new("RGB", (64, 64), (number, 255 - number, 90)).save(folder / f"{number:03}.png")


def write_file(path: Path, count: int) -> Path:
    """Parquet of short rows, or JSON lines of some 2 kB each, by the path's ending."""
    if path.suffix == ".jsonl":
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row | {"note": "n" * 1750}) + "\n" for row in rows(count, 6))
        return path
    import pyarrow
    from pyarrow import parquet

    stream, writer = rows(count, 6), None
    while part := list(islice(stream, 50_000)):
        made = pyarrow.Table.from_pylist(part)
        writer = writer or parquet.ParquetWriter(path, made.schema)
        writer.write_table(made)
    if writer is not None:
        writer.close()
    return path


def first_steps(path: Path, images: Path, folder: Path) -> dict[str, float]:
    """Seconds from the start of the process to its first optimiser step, and the most memory it took until then, in MiB."""
    arguments = [
        "method=dpo_file", f"data.path={path}", f"data.image_root={images}", "evaluation=none", "logger=csv",
        "trainer.log_every_n_steps=1", "trainer.max_steps=2", f"paths.output_dir={folder}/run", f"paths.cache_dir={folder}/cache",
    ]  # fmt: skip
    folder.mkdir(parents=True)
    with open(folder / "told.txt", "wb") as told:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *arguments], cwd=ROOT, stdout=told, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        memory = 0
        try:
            while ": step 1 of" not in _text(folder / "run" / "run.log"):
                memory = max(memory, _most_memory(process.pid))
                if process.poll() is not None or time.perf_counter() - began > LIMIT:
                    raise SystemExit(f"run.py made no step; it wrote:\n{_text(folder / 'told.txt')[-2000:]}")
                time.sleep(0.05)
            seconds = time.perf_counter() - began
            return {"seconds": seconds, "mib": max(memory, _most_memory(process.pid)) / 1024}
        finally:
            process.terminate()
            process.wait()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _most_memory(pid: int) -> int:
    """The most resident memory of a process so far, in KiB; 0 when it is gone."""
    for line in _text(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    """Measure, print one table, write the JSON."""
    options = parser(__file__, __doc__.splitlines()[0], rounds=1)
    options.add_argument("--rows", type=int, default=1_000_000, help="rows of the large files")
    asked = options.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        for ending in ("parquet", "jsonl"):
            for what, count in (("small", FEW), ("large", asked.rows)):
                path = write_file(folder / f"{what}.{ending}", count)
                runs = [
                    first_steps(path, folder / "images", folder / f"{what}-{ending}-{number}")
                    for number in range(asked.rounds)
                ]
                found[f"{ending}, {count:,} rows, {path.stat().st_size / 1e6:,.0f} MB"] = min(
                    runs, key=lambda run: run["seconds"]
                )
                path.unlink()
    told = [[what, run["seconds"], run["mib"]] for what, run in found.items()]
    print(table(["file", "seconds to the first step", "most memory, MiB"], told))
    print(f"written to {write_json(asked.json, {'runs': found})}")


if __name__ == "__main__":
    main()
