"""What a sweep costs: nine runs of SeVa (3 noise steps x 3 beta) in one multirun with one cache, against nine runs on their own.

    python benchmarks/sweep_cost.py
    python benchmarks/sweep_cost.py --scenes 400 --epochs 2 --evaluation none

Both sides are real processes, started as a user would: `python run.py -m aug.noise_steps=… loss.beta=…` once, and nine times
`python run.py …` with an empty cache each. By default both evaluate before and after training on the built-in suites, as a
user's runs do. The sizes are those of `experiment=quick` unless told otherwise: all runs pay for imports, loading, training
and the evaluation of what they have trained; a sweep shares clean answers and the evaluation before training among all its
runs, and corrupted answers and reference log-probs among the runs of one noise step.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if entry != str(ROOT / "benchmarks")),
]  # not this folder's names

from benchmarks.measure import parser, table, write_json

TARGET = 0.35  # the sweep's share of the cost of nine independent runs


def main() -> None:
    """Both sides in turn, one table, one JSON file."""
    options = _options()
    work = Path(tempfile.mkdtemp(prefix="sweep_cost_", dir=options.work))
    axes = {"aug.noise_steps": options.noise_steps, "loss.beta": options.betas}
    jobs = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    try:
        sides = {"sweep": [], "independent": []}  # type: dict[str, list[dict[str, Any]]]
        for round_ in range(options.rounds):
            for side in list(sides) if round_ % 2 == 0 else list(sides)[::-1]:
                folder = work / f"{side}-{round_}"
                run = _sweep if side == "sweep" else _independent
                seconds = run(options, axes, jobs, folder)
                sides[side].append({"seconds": seconds, **_work_done(folder)})
                print(f"{side}: {len(jobs)} runs in {seconds:.1f} s", flush=True)
                if not options.keep:
                    shutil.rmtree(folder)
        _tell(options, sides, len(jobs))
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


def _options() -> Any:
    made = parser(__file__, (__doc__ or "").splitlines()[0], rounds=1)
    made.add_argument("--scenes", type=int, default=160, help="scenes to build pairs from (data.size)")
    made.add_argument("--epochs", type=int, default=1, help="passes over the pairs (trainer.max_epochs)")
    made.add_argument("--noise-steps", type=int, nargs="+", default=[400, 500, 600], help="noise steps of the sweep")
    made.add_argument("--betas", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="values of loss.beta")
    made.add_argument(
        "--evaluation", choices=["shapes", "none"], default="shapes", help="evaluate before and after, or not"
    )
    made.add_argument(
        "--eval-scenes", type=int, default=60, help="described scenes of an evaluation (evaluation.scenes)"
    )
    made.add_argument("--work", type=Path, default=None, help="folder for runs and caches; the system's own for None")
    made.add_argument("--keep", action="store_true", help="leave runs and caches there to be looked at")
    made.add_argument("overrides", nargs="*", help="further overrides for all runs, as for run.py")
    return made.parse_args()


def _command(options: Any, cache: Path) -> list[str]:
    evaluation = [f"evaluation={options.evaluation}"]
    if options.evaluation == "shapes":
        evaluation += [
            f"evaluation.scenes={options.eval_scenes}",
            f"evaluation.pope_scenes={max(1, options.eval_scenes // 6)}",
        ]
    return [
        sys.executable, "run.py", "method=seva", f"data.size={options.scenes}", f"trainer.max_epochs={options.epochs}",
        *evaluation, "logger=csv", f"paths.cache_dir={cache}", *options.overrides,
    ]  # fmt: skip


def _sweep(options: Any, axes: dict[str, list[Any]], jobs: list[dict[str, Any]], folder: Path) -> float:
    swept = [f"{key}={','.join(map(str, values))}" for key, values in axes.items()]
    return _run([*_command(options, folder / "cache"), "-m", *swept, f"hydra.sweep.dir={folder / 'runs'}"], options)


def _independent(options: Any, axes: dict[str, list[Any]], jobs: list[dict[str, Any]], folder: Path) -> float:
    total = 0.0
    for number, job in enumerate(jobs):
        own = [f"{key}={value}" for key, value in job.items()]
        place = f"hydra.run.dir={folder / 'runs' / str(number)}"
        total += _run([*_command(options, folder / f"cache-{number}"), *own, place], options)
    return total


def _run(command: list[str], options: Any) -> float:
    threads = {"OMP_NUM_THREADS": str(options.threads)} if options.threads else {}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return seconds


def _work_done(folder: Path) -> dict[str, int]:
    """Counts over all runs of a side, from the files they left."""
    counts = dict.fromkeys(
        ("runs", "generated", "reused", "references_computed", "references_reused", "evaluations_reused"), 0
    )
    for results in sorted(folder.glob("runs/*/results.json")):
        pairs = json.loads(results.read_text())["pairs"]
        counts["runs"] += 1
        counts["generated"] += pairs["built"]
        counts["reused"] += pairs["reused"]
        fit = json.loads(next(results.parent.glob("stages/*/fit.json")).read_text())
        counts["references_computed"] += fit["references"]["computed"]
        counts["references_reused"] += fit["references"]["reused"]
        for evaluation in results.parent.glob("stages/*/eval_*.json"):
            counts["evaluations_reused"] += bool(json.loads(evaluation.read_text())["meta"]["reused"])
    return counts


def _tell(options: Any, sides: dict[str, list[dict[str, Any]]], jobs: int) -> None:
    middle = {name: sorted(run["seconds"] for run in runs)[len(runs) // 2] for name, runs in sides.items()}
    ratio = middle["sweep"] / middle["independent"]
    head = ["", "seconds", "ratio", "answers generated", "answers reused", "references computed", "references reused"]
    rows = []
    for name, label in (("sweep", f"{jobs} runs in one sweep"), ("independent", f"{jobs} independent runs")):
        done = sides[name][0]
        keys = ("generated", "reused", "references_computed", "references_reused")
        rows.append([label, middle[name], middle[name] / middle["independent"], *[done[key] for key in keys]])
    print(table(head, rows))
    said = "reached" if ratio <= TARGET else "missed"
    print(f"the sweep costs {ratio:.2f} of independent runs; at most {TARGET} is wanted: {said}")
    content = {
        "ratio": ratio,
        "target": TARGET,
        "evaluation": options.evaluation,
        "scenes": options.scenes,
        "epochs": options.epochs,
    }
    print(f"numbers in {write_json(options.json, {**content, 'sides': sides})}")


if __name__ == "__main__":
    main()
