"""A training step against TRL's `DPOTrainer`, and with a shared prefix against separate sequences.

    python benchmarks/train_step.py                         # everything, about half an hour on two cores
    python benchmarks/train_step.py --part trl --responses 128
    python benchmarks/train_step.py --part layouts --dtype float32

Both trainers get the same random LLaVA (576 image tokens, 40 question tokens), the same JPEG files and texts through a data
loader of their own, the same LoRA (r = 64 on every linear layer of the language model, dropout 0), AdamW, batch and clipping,
and no activation checkpointing. Each runs in the precision that is faster for it, found out first (`--dtype` fixes it for
both). A step is everything from one optimiser step to the next: loading, encoding, forward, backward, clipping, update. TRL
refuses to compute the reference of vision data beforehand; ours is computed once per pair before training, and how long that
takes is shown beside the step.

Losses are compared in float32 from equal weights over four steps before anything is timed; memory is taken in processes of
its own.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if entry != str(ROOT / "benchmarks")),
]  # not this folder's names
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")

from benchmarks.llava_shaped import IMAGE_TOKENS, QUESTION_TOKENS, Row, Shape, write_checkpoint, write_rows
from benchmarks.measure import medians, parser, table, use_threads, write_json
from benchmarks.our_side import RANK, Ours
from benchmarks.trl_side import Trl

PROMPT = IMAGE_TOKENS + QUESTION_TOKENS
DTYPES = ("float32", "bfloat16")  # of the weights; bfloat16 ones are trained with under autocast
TRL_DTYPES = (*DTYPES, "float32+autocast")  # the last is what TRL does unless told otherwise


def agreement(checkpoint: Path, rows: Sequence[Row], batch: int) -> float:
    """Largest relative difference between both trainers' losses over four steps of float32 from the same weights."""
    import torch

    ours, trl = Ours(checkpoint, rows[:batch], batch, "float32"), Trl(checkpoint, rows[:batch], batch, "float32")
    theirs = dict(trl.trainer.model.named_parameters())
    copied = 0
    with torch.no_grad():
        for name, value in ours.policy.trainable_parameters():
            match = [n for n in theirs if n.endswith(name.split("base_model.model.", 1)[1])]
            theirs[match[0]].copy_(value)
            copied += 1
    assert copied == len(ours.policy.trainable_parameters()) > 0
    (_, one), (_, other) = ours.steps(4, lr=1e-4), trl.steps(4, lr=1e-4)
    print("losses ours", [round(x, 6) for x in one], "TRL", other)
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def faster(make: Any, dtypes: Sequence[str], steps: int) -> tuple[Any, str, dict[str, float]]:
    """The side in its faster precision, by a short trial of each."""
    found: dict[str, float] = {}
    best: Any = None
    for dtype in dtypes:
        side = make(dtype)
        found[dtype] = min(side.steps(1 + steps)[0])
        if found[dtype] == min(found.values()):
            best = side
    name = min(found, key=lambda dtype: found[dtype])
    return best, name, found


def against_trl(args: Any, checkpoint: Path, folder: Path) -> list[dict[str, Any]]:
    """One entry per response length."""
    dtypes = DTYPES if args.dtype == "auto" else (args.dtype,)
    found = []
    for tokens in args.responses:
        rows = write_rows(folder / "images", args.batch * (1 + args.steps), tokens)
        ours, our_dtype, our_trial = faster(lambda d: Ours(checkpoint, rows, args.batch, d), dtypes, 2)  # noqa: B023
        theirs = TRL_DTYPES if args.dtype == "auto" else dtypes
        trl, trl_dtype, trl_trial = faster(lambda d: Trl(checkpoint, rows, args.batch, d), theirs, 2)  # noqa: B023
        live = Ours(checkpoint, rows, args.batch, our_dtype, live=True)
        sides = {"TRL": trl, "ours": ours, "ours, live reference": live}
        times = rounds_of(sides, args.rounds, args.steps)
        middle = medians(times)
        found.append(
            {
                "tokens": tokens, "seconds": times, "median": middle, "dtype": {"TRL": trl_dtype, "ours": our_dtype},
                "trials": {"TRL": trl_trial, "ours": our_trial}, "ratio": middle["TRL"] / middle["ours"],
                "ratio_live": middle["TRL"] / middle["ours, live reference"],
                "reference_seconds_per_pair": ours.reference_seconds, "batch": args.batch,
            }
        )  # fmt: skip
        print(json.dumps({k: v for k, v in found[-1].items() if k != "seconds"}), flush=True)
    return found


def rounds_of(sides: dict[str, Any], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of single steps; the sides take turns, and who goes first changes."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            times[name] += sides[name].steps(1 + steps)[0]
    return times


def bound(responses: int, tokens: int) -> float:
    """Tokens that the language model reads with separate sequences, over those with a shared prefix."""
    return responses * (PROMPT + tokens) / (PROMPT + responses * tokens)


def layouts(args: Any, checkpoint: Path, folder: Path) -> list[dict[str, Any]]:
    """Separate sequences against a shared prefix, one entry per number of responses."""
    dtype = "float32" if args.dtype == "auto" else args.dtype
    found = []
    for responses in args.counts:
        tokens = 128
        rows = write_rows(folder / f"images_{responses}", args.batch * (1 + args.steps), tokens, responses - 1)
        sides = {name: Ours(checkpoint, rows, args.batch, dtype, layout=name) for name in ("separate", "shared")}
        times = rounds_of(sides, args.rounds, args.steps)
        middle, limit = medians(times), bound(responses, tokens)
        ratio = middle["separate"] / middle["shared"]
        found.append(
            {"responses": responses, "tokens": tokens, "dtype": dtype, "seconds": times, "median": middle, "ratio": ratio,
             "bound": limit, "share_of_bound": ratio / limit}
        )  # fmt: skip
        print(json.dumps({k: v for k, v in found[-1].items() if k != "seconds"}), flush=True)
    return found


def memory(args: Any) -> dict[str, Any]:
    """Peak resident memory above what each side holds once its model is loaded, each in a process of its own. MiB."""
    found = {}
    for side in ("TRL", "ours"):
        command = [sys.executable, __file__, "--memory-of", side, "--batch", str(args.batch), "--dtype", "float32",
                   "--threads", str(args.threads)]  # fmt: skip
        found[side] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
    print(json.dumps(found), flush=True)
    return found


def memory_of(args: Any, checkpoint: Path, folder: Path) -> None:
    """Print one side's peak. ru_maxrss counts KiB on Linux."""
    rows = write_rows(folder / "images", args.batch * 3, 128)
    side: Any = (Trl if args.memory_of == "TRL" else Ours)(checkpoint, rows[: 3 * args.batch], args.batch, args.dtype)
    loaded = _resident()
    side.steps(3)
    print(json.dumps({"loaded": loaded, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def _resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def main() -> None:
    arguments = parser(__file__, "A training step against TRL's, and shared against separate prompts.", rounds=3)
    arguments.add_argument(
        "--part", choices=("all", "trl", "layouts", "memory", "agreement"), default="all", help="what is measured"
    )
    arguments.add_argument("--responses", type=_numbers, default=[64, 128, 256], help="tokens per response against TRL")
    arguments.add_argument("--counts", type=_numbers, default=[2, 3, 5, 9], help="responses per image for the layouts")
    arguments.add_argument("--batch", type=int, default=4, help="pairs per step")
    arguments.add_argument("--steps", type=int, default=3, help="timed steps of each side in each round")
    arguments.add_argument(
        "--dtype", choices=("auto", *DTYPES), default="auto", help="auto: the faster one of each side"
    )
    arguments.add_argument("--memory-of", choices=("TRL", "ours"), help="internal: one side, in this process")
    args = arguments.parse_args()
    for name in ("pytorch_lightning", "transformers", "trl", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    threads = use_threads(args.threads)
    folder = Path("outputs/benchmarks/llava_shaped")
    checkpoint = write_checkpoint(folder / "model")
    if args.memory_of:
        memory_of(args, checkpoint, folder)
        return
    result: dict[str, Any] = {"model": Shape().name(), "prompt_tokens": PROMPT, "lora_rank": RANK, "threads": threads}
    if args.part in ("all", "agreement", "trl"):
        result["largest_relative_difference_of_losses"] = agreement(
            checkpoint, write_rows(folder / "images", args.batch, 64), args.batch
        )
    if args.part in ("all", "memory"):
        result["memory_mib"] = memory(args)
    if args.part in ("all", "trl"):
        result["against_trl"] = against_trl(args, checkpoint, folder)
    if args.part in ("all", "layouts"):
        result["layouts"] = layouts(args, checkpoint, folder)
    print("\n" + report(result))
    print(f"\nwritten to {write_json(args.json, result)}")


def report(result: dict[str, Any]) -> str:
    """The tables."""
    parts = []
    if "largest_relative_difference_of_losses" in result:
        parts.append(
            f"losses over four steps: largest relative difference {result['largest_relative_difference_of_losses']:.1e}"
        )
    if "memory_mib" in result:
        rows = [[side, m["loaded"], m["peak"], m["peak"] - m["loaded"]] for side, m in result["memory_mib"].items()]
        parts.append(table(["float32, R = 128", "MiB loaded", "MiB peak", "MiB of a step"], rows))
    if "against_trl" in result:
        rows = [
            [f["tokens"], f["dtype"]["TRL"], f["median"]["TRL"], f["dtype"]["ours"], f["median"]["ours"], f"{f['ratio']:.2f}",
             f"{f['ratio_live']:.2f}", f["reference_seconds_per_pair"]]
            for f in result["against_trl"]
        ]  # fmt: skip
        head = [
            "tokens per response",
            "TRL in",
            "s per step",
            "ours in",
            "s per step",
            "ratio",
            "ratio, live reference",
            "reference, s per pair, once",
        ]
        parts.append(table(head, rows))
    if "layouts" in result:
        rows = [
            [f["responses"], f["dtype"], f["median"]["separate"], f["median"]["shared"], f"{f['ratio']:.2f}", f"{f['bound']:.2f}",
             f"{100 * f['share_of_bound']:.0f} %"]
            for f in result["layouts"]
        ]  # fmt: skip
        parts.append(
            table(["responses per image", "in", "separate, s", "shared, s", "ratio", "bound", "reached"], rows)
        )
    return "\n\n".join(parts)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
