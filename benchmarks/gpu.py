"""The first hour on a GPU, as one command: is it right, how fast is a step, what do the alternatives cost. Nothing is downloaded.

    python benchmarks/gpu.py                    # all parts, the most telling first; also `make gpu`
    python benchmarks/gpu.py --parts step       # some of them
    python benchmarks/gpu.py --toy              # all of them with toys on a CPU, in minutes: do the scripts work?

Each part is a command of its own (they are printed), so a part that fails or runs out of memory ends itself and not the hour.
What a part found is written when it ends: its table to `gpu.md`, in the form of docs/gpu.md, and its numbers with the machine's
data to `gpu.json`, both in --out. These two files are what to send back. A part that would begin after --minutes is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

from benchmarks.measure import write_json

STEP = ["benchmarks/gpu_step.py", "--responses", "2"]
TOY_STEP = ["--toy", "--rounds", "1", "--warmup", "0", "--response-tokens", "24", "--rank", "8", "--pairs", "2"]
SEVA = [
    "run.py",
    "method=seva",
    "data.size=64",
    "evaluation=none",
    "logger=none",
    "pairs.drop_equal=false",
    "model=hub",
    "lora.r=128",
    "lora.alpha=256",
]


@dataclass(frozen=True)
class Part:
    """A command, what it shows, and what is typed in its place for a toy. `{out}`, `{json}` and `{gpus}` are filled in."""

    name: str
    says: str
    full: list[str]
    toy: list[str]
    several: bool = False  # needs more than one GPU


PARTS = [
    Part("correctness", "loading, answers, log-probs, attention, precision, kept features, resumption, two GPUs",
         ["-m", "pytest", "-q", "-m", "gpu", "tests"], ["-m", "pytest", "-q", "-m", "not gpu and not slow", "tests/gpu"]),
    Part("step", "LLaVA-1.5-7B, 640 + 2 x 256 tokens, LoRA of rank 128, beside TRL",
         [*STEP, "--question-tokens", "64", "--response-tokens", "256", "--rank", "128", "--json", "{json}"],
         [*STEP, *TOY_STEP, "--json", "{json}"]),
    Part("step, Qwen2.5-VL", "Qwen2.5-VL-7B, images of 1,003,520 pixels, LoRA of rank 128",
         [*STEP, "--model", "qwen25_vl_7b", "--response-tokens", "256", "--rank", "128", "--json", "{json}"],
         [*STEP, "--model", "qwen25_vl_7b", *TOY_STEP, "--json", "{json}"]),
    Part("step, rank 1024", "LLaVA-1.5-7B with the rank of SeVa's paper",
         [*STEP, "--question-tokens", "64", "--response-tokens", "256", "--rank", "1024", "--no-trl", "--json", "{json}"],
         [*STEP, *TOY_STEP, "--no-trl", "--json", "{json}"]),
    Part("building", "answers at 7B beside transformers' generate, and vLLM where it is installed",
         ["benchmarks/gpu_build.py", "--folder", "{out}/llava_7b_shaped", "--json", "{json}"],
         ["benchmarks/gpu_build.py", "--toy", "--folder", "{out}/llava_toy", "--images", "6", "--batch-size", "3",
          "--max-new-tokens", "8", "--rounds", "1", "--json", "{json}"]),
    Part("attention", "kernels for shared prompts, lengths as in an epoch",
         ["benchmarks/gpu_attention.py", "--json", "{json}"],
         ["benchmarks/gpu_attention.py", "--toy", "--rounds", "1", "--batches", "2", "--pairs", "2", "--rank", "8",
          "--json", "{json}"]),
    Part("seva", "a whole run of SeVa with 64 images and random weights",
         [*SEVA, "trainer=gpu", "model.path={out}/llava_7b_shaped", "paths.output_dir={out}/seva", "paths.cache_dir={out}/cache"],
         [*SEVA, "trainer=cpu", "data.size=6", "model.path={out}/llava_toy", "paths.output_dir={out}/seva",
          "paths.cache_dir={out}/cache", "generation.max_new_tokens=8", "trainer.batch_size=2"]),
    *(
        Part(f"strategy {name}", f"all GPUs of the machine under {name}",
             ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node={gpus}", "benchmarks/strategy_rows.py",
              "--strategy", name, "--json", "{json}"],
             ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "benchmarks/strategy_rows.py", "--strategy",
              name, "--toy", "--rounds", "1", "--pairs", "2", "--response-tokens", "16", "--rank", "8", "--json", "{json}"],
             several=True)
        for name in ("ddp", "fsdp", "fsdp2")
    ),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the parts, write the two files after each, return the content of the JSON. Raises SystemExit without a GPU or toy."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--out", type=Path, default=Path("outputs/benchmarks/gpu"), help="folder of all that is written"
    )
    options.add_argument("--parts", nargs="*", help="only those whose names begin so: correctness, step, building, …")
    options.add_argument("--minutes", type=float, default=60, help="no part begins later than this")
    options.add_argument("--toy", action="store_true", help="toys on a CPU, to try the scripts")
    given = options.parse_args(arguments)
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus and not given.toy:
        raise SystemExit("there is no GPU here (torch sees none); try the scripts themselves with --toy")
    parts = [part for part in PARTS if not given.parts or part.name.startswith(tuple(given.parts))]
    if not parts:
        raise SystemExit(f"--parts {' '.join(given.parts)}: there are {', '.join(part.name for part in PARTS)}")
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), []
    for part in parts:
        late = time.monotonic() - began > 60 * given.minutes
        reason = f"{given.minutes:g} minutes are over" if late else ""
        if part.several and not given.toy and gpus < 2:
            reason = f"needs several GPUs, and here there is {gpus}"
        found.append(
            {"part": part.name, "says": part.says, "left_out": reason} if reason else ran(part, given.toy, out, gpus)
        )
        content = {"toy": given.toy, "gpus": gpus, "parts": found}
        write_json(out / "gpu.json", content)
        (out / "gpu.md").write_text(document(found), encoding="utf-8")
    print(f"{out / 'gpu.md'}\n{out / 'gpu.json'}")
    return content


def ran(part: Part, toy: bool, out: Path, gpus: int) -> dict[str, Any]:
    """One part by a process of its own: how it ended, how long it took, what it printed and wrote."""
    path = out / f"{part.name.replace(', ', '_').replace(' ', '_')}.json"
    path.unlink(missing_ok=True)
    words = [word.format(out=out, json=path, gpus=gpus) for word in (part.toy if toy else part.full)]
    typed = "python " + " ".join(words)
    print(f"{part.name}: {typed}", flush=True)
    began = time.monotonic()
    settings = {**os.environ, "PARALLAX_ROOT": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=settings, text=True, stdout=subprocess.PIPE)
    printed = [line for line in done.stdout.splitlines() if not line.startswith("USDT:")]  # of torch's profiler
    print("\n".join(printed), flush=True)
    return {
        "part": part.name, "says": part.says, "command": typed, "exit_code": done.returncode,
        "seconds": time.monotonic() - began, "printed": printed[-40:],
        "found": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None,
    }  # fmt: skip


def document(found: list[dict[str, Any]]) -> str:
    """The parts as Markdown: for each its command, its tables or its last lines, and how it ended where that was badly."""
    lines: list[str] = []
    for part in found:
        lines += [f"## {_first_big(part['part'])}", f"{_first_big(part['says'])}.", ""]
        if "exit_code" not in part:
            lines += [f"Left out: {part['left_out']}.", ""]
            continue
        table = [line for line in part["printed"] if line.startswith("|")]
        lines += [f"    {part['command']}", "", *(table or ["```", *part["printed"][-4:], "```"]), ""]
        if part["exit_code"]:
            lines += [f"**Ended with code {part['exit_code']}** after {part['seconds']:.0f} s.", ""]
    return "\n".join(lines)


def _first_big(text: str) -> str:
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    main()
