"""Kernels for attention over shared prompts, with lengths that vary as in a real epoch, at the size of LLaVA-1.5-7B.

    python benchmarks/gpu_attention.py            # on a GPU: random weights, nothing is downloaded
    python benchmarks/gpu_attention.py --toy      # a toy on a CPU

Forward and backward over the same batches of drawn lengths (`length_distributions.details`: answers of 50 to 300 tokens), every
batch of another shape. `first` is the time of the first pass over them, with what a kernel compiles or plans, `seconds` a median
of later passes. All kernels are given the same tokens, so tokens per second compare. The log-probs of each are compared with
those of the dense mask (`sdpa`); a kernel that cannot run here is named with the reason.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

import numpy as np
import torch

from benchmarks.allocator import peak_of
from benchmarks.length_distributions import details
from benchmarks.measure import interleaved, medians, parser, table, use_threads, write_json
from benchmarks.random_model import autocast, image_tokens, model_config, names, random_pairs, random_policy
from parallax.models.batch import PairBatch
from parallax.models.scoring.shared_prefix import SDPA, register_attention, shared_prefix
from parallax.models.scoring.varlen_attention import FLEX, VARLEN, fault_of

KERNELS = {
    "dense mask": "sdpa",
    "SDPA in two": SDPA,
    "variable length": VARLEN,
    "FlexAttention": FLEX,
}


def epoch(config: Any, batches: int, pairs: int, negatives: int, toy: bool) -> list[PairBatch]:
    """Batches of different lengths around images of one size."""
    image, result = image_tokens(config), []
    for number in range(batches):
        prompts, answers = details(pairs, negatives, np.random.default_rng(number))
        prompts = prompts - 576 + image + 3
        if toy:
            answers = np.maximum(answers // 10, 2)
        lengths = torch.from_numpy(prompts).long(), torch.from_numpy(answers).long()
        result.append(
            random_pairs(
                config, pairs=pairs, prompt_tokens=int(prompts.max()), response_tokens=int(answers.max()),
                responses=1 + negatives, lengths=lengths, seed=number,
            )
        )  # fmt: skip
    return result


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table, write the JSON, return what was written. Raises SystemExit without a GPU where no toy is asked for."""
    options = parser(__file__, "Attention over shared prompts with varying lengths.", rounds=3)
    options.add_argument("--model", default="llava15_7b", choices=names(), help="whose size")
    options.add_argument("--batches", type=int, default=8, help="batches of an epoch, each of other lengths")
    options.add_argument("--pairs", type=int, default=4, help="pairs of a batch")
    options.add_argument("--negatives", type=int, default=1, help="rejected answers of a pair")
    options.add_argument("--rank", type=int, default=128, help="of LoRA")
    options.add_argument("--toy", action="store_true", help="a toy on a CPU, to try the script")
    given = options.parse_args(arguments)
    use_threads(given.threads)
    device, dtype = ("cpu", torch.float32) if given.toy else ("cuda", torch.bfloat16)
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here (torch sees none); try the script itself with --toy")
    model = "tiny" if given.toy else given.model
    policy = random_policy(model, rank=given.rank, dtype=dtype, device=device, layout="shared", fused=True)
    text = policy.model.get_base_model().config.get_text_config()
    register_attention()
    batches = [
        batch.to(device) for batch in epoch(model_config(model), given.batches, given.pairs, given.negatives, given.toy)
    ]
    tokens = sum(int(b.scoring.prompt_lengths.sum() + b.scoring.response_lengths.sum()) for b in batches)
    half = None if given.toy else dtype

    def passed(kernel: str) -> None:
        text._attn_implementation, policy.layout = kernel, shared_prefix
        for batch in batches:
            with autocast(device, half):
                policy.score(batch.scoring).total.sum().backward()
            policy.model.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    def said(kernel: str) -> torch.Tensor:
        text._attn_implementation, policy.layout = kernel, shared_prefix
        with torch.no_grad(), autocast(device, half):
            return policy.score(batches[0].scoring).total.float().cpu()

    dense, rows, runs = said("sdpa"), {}, {}
    for name, kernel in KERNELS.items():
        rows[name] = row = {"kernel": name, "fault": ""}
        heads = int(text.num_attention_heads)
        if kernel == VARLEN:
            row["fault"] = fault_of(
                torch.device(device), dtype, heads, int(text.num_key_value_heads), int(text.hidden_size) // heads
            )
        if row["fault"]:
            continue
        try:
            began = time.perf_counter()
            passed(kernel)
            row |= {
                "first": time.perf_counter() - began,
                "largest_difference": float((said(kernel) - dense).abs().max()),
            }
            row["peak_bytes"] = peak_of(lambda kernel=kernel: passed(kernel), device)
        except Exception as error:  # a kernel that fails on this machine is a row too
            row["fault"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        runs[name] = lambda kernel=kernel: passed(kernel)
    times = interleaved(runs, given.rounds, given.warmup)
    for name, seconds in medians(times).items():
        rows[name] |= {"seconds": seconds, "tokens_per_second": tokens / seconds, "times": times[name]}
    head = ["kernel", "s per epoch", "tokens/s", "first, s", "activations GB", "largest difference", "why not"]
    keys = ["seconds", "tokens_per_second", "first", "peak_bytes", "largest_difference", "fault"]
    shown = {
        name: {**row, "peak_bytes": row["peak_bytes"] / 1e9} if "peak_bytes" in row else row
        for name, row in rows.items()
    }
    print(table(head, [[name, *(row.get(key, "–") for key in keys)] for name, row in shown.items()]))
    content = {"model": model, "tokens": tokens, "rows": list(rows.values())}
    write_json(given.json, content)
    return content


if __name__ == "__main__":
    main()
