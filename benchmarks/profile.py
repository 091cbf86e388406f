"""Where the time of a training step and of a pair build goes, as tables.

    python benchmarks/profile.py                       # both
    python benchmarks/profile.py --part step --dtype bfloat16 --negatives 4
    python benchmarks/profile.py --part build          # what `benchmarks/build_pairs.py --profile` shows

A step is what `benchmarks/train_step.py` times: loading, encoding, forward, backward, clipping, update. Its parts are sums of the
time inside torch's operators, found by their names; what is left is Python, image files and the processor.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# this file is called like a module of Python's own, so its folder must not be searched
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

from benchmarks.llava_shaped import write_checkpoint, write_rows
from benchmarks.measure import parser, table, use_threads, write_json
from benchmarks.our_side import Ours
from benchmarks.train_step import DTYPES

PARTS = (  # the first that fits counts
    ("attention, backward", ("attention", "backward")),
    ("attention, forward", ("attention",)),
    ("matrix products", ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "mkldnn", "aten::addmm_")),
    ("convolution", ("conv",)),
    ("optimiser", ("_foreach", "aten::sqrt", "aten::addcdiv", "aten::addcmul", "lerp")),
    ("copies and casts", ("copy_", "_to_copy", "aten::cat", "clone", "contiguous", "fill_", "zero_")),
    ("sums of the output head", ("logsumexp", "aten::exp", "scatter_add", "log_softmax")),
    ("element by element", ("aten::",)),
)


def part_of(operator: str) -> str:
    """The row of the table that an operator belongs to."""
    for name, marks in PARTS:
        if name == "attention, backward":
            if all(mark in operator for mark in marks):
                return name
        elif any(mark in operator for mark in marks):
            return name
    return "bookkeeping of autograd"


def step_parts(side: Ours, steps: int) -> tuple[dict[str, float], float]:
    """Seconds of one step by part, and of one step in all, averaged over `steps`."""
    from torch.profiler import ProfilerActivity, profile

    side.steps(2)  # warm-up
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        side.steps(steps)
    whole = (time.perf_counter() - began) / steps
    parts: dict[str, float] = {}
    for event in found.key_averages():
        name = part_of(event.key)
        parts[name] = parts.get(name, 0.0) + event.self_cpu_time_total / 1e6 / steps
    parts["Python, image files, processor, start of the fit"] = max(0.0, whole - sum(parts.values()))
    return parts, whole


def main() -> None:
    arguments = parser(__file__, "Where the time goes.", rounds=3)
    arguments.add_argument("--part", choices=("all", "step", "build"), default="all", help="what is looked at")
    arguments.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the step")
    arguments.add_argument("--layout", choices=("auto", "separate", "shared"), default="auto", help="of the step")
    arguments.add_argument("--tokens", type=int, default=128, help="per response")
    arguments.add_argument("--negatives", type=int, default=1, help="rejected responses per image")
    arguments.add_argument("--batch", type=int, default=4, help="pairs per step")
    args = arguments.parse_args()
    use_threads(args.threads)
    result: dict[str, Any] = {}
    if args.part in ("all", "step"):
        folder = Path("outputs/benchmarks/llava_shaped")
        checkpoint = write_checkpoint(folder / "model")
        rows = write_rows(
            folder / f"images_{1 + args.negatives}", args.batch * args.rounds, args.tokens, args.negatives
        )
        parts, whole = step_parts(Ours(checkpoint, rows, args.batch, args.dtype, args.layout), args.rounds)
        result["step"] = {"seconds": whole, "parts": parts, "dtype": args.dtype, "layout": args.layout}
        ordered = sorted(parts.items(), key=lambda item: -item[1])
        cells = [[name, seconds, f"{100 * seconds / whole:.0f} %"] for name, seconds in ordered]
        print(table([f"one step, {args.dtype}", "s", "share"], [*cells, ["all", whole, ""]]))
        print(f"\nwritten to {write_json(args.json, result)}")
    if args.part in ("all", "build"):
        command = [sys.executable, str(ROOT / "benchmarks" / "build_pairs.py"), "--profile"]
        subprocess.run([*command, "--threads", str(args.threads)], check=True)


if __name__ == "__main__":
    main()
