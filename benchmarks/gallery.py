"""What a gallery of many pairs costs: seconds and memory to make it, seconds to open, scroll, filter and search it.

    python benchmarks/gallery.py                    20,000 pairs with pictures; a browser opens the page
    python benchmarks/gallery.py --pairs 2000 --thumbnail 0 --keep outputs/gallery

Pairs are written of drawn scenes and their true descriptions, so no model is needed; the gallery is made in a process of its own,
whose peak memory is what the system says of it. The browser opens the page from the file, with nothing cached.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

from benchmarks.browser import Browser, chromium
from benchmarks.measure import table, write_json

MAKE = """
import re, sys, time
from pathlib import Path
from parallax.reports.gallery import write_gallery
began = time.perf_counter()
write_gallery(sys.argv[1], sys.argv[1], thumbnail=int(sys.argv[2]))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss would include the parent's
print(time.perf_counter() - began, int(peak[1]) / 1024)
"""
ROWS = "document.querySelectorAll('[role=option]')"
SEEN = f"[...{ROWS}].length > 0 && [...{ROWS}].every((row) => row.querySelector('.prompt'))"  # every row has its texts
SETTLED = "document.getElementById('status').textContent.includes('shown')"


def make_run(folder: Path, pairs: int, dropped: int = 0) -> Path:
    """A run folder whose pair set holds `pairs` pairs and `dropped` samples without one; scenes are drawn when needed."""
    import yaml

    from parallax.records.pair import Dropped
    from parallax.records.pair_store import PairSet

    data = {"_target_": "datamodules.shapes.source.ShapesSource", "split": "pairs_habit_free", "size": pairs + dropped,
            "seed": 0, "kinds": ["describe"], "start": 0}  # fmt: skip
    config = {"method": {"name": "seva"}, "model": {"name": "tiny_llava", "path": str(ROOT / "assets" / "tiny_llava")},
              "data": data, "paths": {"cache_dir": str(folder / "cache")}}  # fmt: skip
    samples = _samples(pairs + dropped)
    made = [_pair(sample, number) for number, sample in zip(range(pairs), samples, strict=False)]
    gone = [Dropped(s.id, s.source, "equal" if n % 3 else "truncated", "rejected") for n, s in enumerate(samples)]
    PairSet(folder / "pairs").write(made, gone)
    stage = folder / "stages" / "align"
    stage.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "results.json").write_text("{}")
    (stage / "pairs.json").write_text(json.dumps({"pair_set": str(folder / "pairs")}))
    return folder


def _samples(count: int) -> Iterator[Any]:
    from datamodules.shapes.source import ShapesSource

    return iter(ShapesSource("pairs_habit_free", count, kinds=("describe",)) if count else [])


def _pair(sample: Any, number: int) -> Any:
    """A true description, and one with its last words changed, as if seen through noise."""
    from parallax.records import PreferencePair, Response

    words = str(sample.answer).split()
    view = {"name": "diffusion", "params": {"noise_steps": 300 + 100 * (number % 5)}, "seed": number}
    wrong = " ".join([*words[:-2], "a", f"ghost{number}."])
    rejected = Response(wrong, provenance={"view": view, "role": "rejected"}, score=-(number % 100) / 10)
    return PreferencePair(
        sample.id, ("coco", "drawings", "photos")[number % 3], sample.image, sample.question,
        Response(str(sample.answer), provenance={"role": "chosen"}, score=1.0), (rejected,), sample.kind,
    )  # fmt: skip


def make(folder: Path, thumbnail: int) -> dict[str, float]:
    """Seconds and peak memory (MB of 2**20 bytes) of making the gallery, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(folder), str(thumbnail)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    seconds, peak = map(float, done.stdout.split()[-2:])
    files = [path for path in (folder / "gallery_files").rglob("*") if path.is_file()]
    return {
        "make, s": seconds,
        "peak memory, MB": peak,
        "files": len(files),
        "on disk, MB": sum(f.stat().st_size for f in files) / 1e6,
    }


def use(page: Path) -> dict[str, float]:
    """Seconds until a reader sees what was asked for."""
    found: dict[str, float] = {}
    with Browser(1400, 900, patience=300) as browser:

        def timed(name: str, action: Any, condition: str) -> None:
            began = time.perf_counter()
            action()
            browser.wait(condition)
            found[name] = time.perf_counter() - began

        def ask(expression: str) -> Any:
            return lambda: browser.ask(f"(() => {{ {expression} }})()")

        timed("open, s", lambda: browser.open(page.as_uri()), SEEN)
        found["rows in the page"] = browser.ask(f"{ROWS}.length")
        jump = "const l = document.getElementById('list'); l.scrollTop = l.scrollHeight"
        places, count = (
            f"[...{ROWS}].map((row) => Number(row.ariaPosInSet))",
            browser.ask(f"Number({ROWS}[0].ariaSetSize)"),
        )
        near = f"Math.abs({places}[0] - {count} / 2) < 50 && {SEEN}"
        timed("scroll to the middle, s", ask(f"{jump} / 2;"), near)
        timed("scroll to the end, s", ask(f"{jump};"), f"Math.max(...{places}) === {count} && {SEEN}")
        clear = "document.getElementById('status').textContent = '';"
        pick = f"const s = document.getElementById('fact-source'); s.value = '1'; {clear}"
        timed(
            "filter, s", ask(f"{pick} s.dispatchEvent(new Event('input', {{bubbles: true}}));"), f"{SETTLED} && {SEEN}"
        )
        search = f"const s = document.getElementById('search'); s.value = 'ghost17'; {clear}"
        fire = "s.dispatchEvent(new Event('input', {bubbles: true}));"
        timed("search in all texts, s", ask(f"{search} {fire}"), f"{SETTLED} && {SEEN}")
        timed("search again, s", ask(f"{search.replace('17', '18')} {fire}"), f"{SETTLED} && {SEEN}")
        found["rows in the page, most"] = max(found.pop("rows in the page"), browser.ask(f"{ROWS}.length"))
        found["JavaScript heap, MB"] = browser.memory() / 1e6
    return found


def main() -> None:
    says = "a gallery of many pairs: making it, opening it, using it"
    arguments = argparse.ArgumentParser(description=says, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=20_000, help="pairs in the gallery")
    arguments.add_argument("--thumbnail", type=int, default=160, help="pixels of its pictures; 0 for none")
    arguments.add_argument(
        "--keep", type=Path, help="a folder that does not exist yet: where the run and its gallery stay"
    )
    arguments.add_argument(
        "--json", type=Path, default=Path("outputs/benchmarks/gallery.json"), help="where numbers go"
    )
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="parallax-gallery-") as scratch:
        folder = make_run(given.keep or Path(scratch) / "run", given.pairs, given.pairs // 10)
        numbers = make(folder, given.thumbnail)
        print(numbers, flush=True)
        if chromium() is not None:
            numbers |= use(folder / "gallery.html")
    print(table(["", f"{given.pairs:,} pairs"], [[name, value] for name, value in numbers.items()]))
    write_json(given.json, {"pairs": given.pairs, "thumbnail": given.thumbnail, "numbers": numbers})


if __name__ == "__main__":
    main()
