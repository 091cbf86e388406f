"""What a training step costs on paper: operations, bytes and calls, the time they bound on A100 and H200. Nothing is run.

    python benchmarks/counts.py                        # LLaVA-1.5-7B and Qwen2.5-VL-7B, rank 128, both cards
    python benchmarks/counts.py --model llava15_7b --pairs 8

Rows are the ways a step was and is made: with activations recomputed one pair at a time, as the recipes had it; without, in
micro-batches that the planner says fit; prompts read once per response or shared. Operations are those of `gpu.py`
(`model_flops`), with one more forward pass of the decoder where activations are recomputed. Bytes are the least that has to
move: every weight once per pass (forward, backward, and again where recomputed), the adapter's float32 weights, gradients and
moments once for AdamW. Calls are kernels of the decoder: a layer's linear layers with their adapters (3 forward, 6 backward
each), and 14 others forward and twice that backward. The bound is the larger of operations over peak and bytes over
bandwidth; what a kernel loses within itself is not in it, so no run is as fast.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

from benchmarks.gpu_step import model_flops
from benchmarks.measure import parser, table, write_json
from parallax.models.memory.capacity import GPUS, Gpu, largest_micro_batch
from parallax.models.memory.model_shape import ModelShape, shape_of
from parallax.models.memory.planner import Workload, trained_parameters
from parallax.models.memory.workload import BYTES
from parallax.models.scoring.log_probs import rows_per_chunk
from parallax.models.true_size import meta_model

SETTINGS = {"llava15_7b": (576, 64), "qwen25_vl_7b": (1280, 64)}  # image tokens (1,003,520 pixels for Qwen), others
RESPONSE, OTHER_CALLS, LAUNCH = 256, 14, 6e-6  # tokens; kernels beside linear layers; seconds a call takes the host


def counts(shape: ModelShape, work: Workload, gpu: Gpu, step_pairs: int) -> dict[str, float]:
    """Operations, bytes and calls of an optimiser step of `step_pairs` pairs, and seconds that they bound."""
    passes = -(-step_pairs // work.pairs)
    again = 2 * work.tokens * shape.linear_parameters if work.checkpointing else 0
    flops = step_pairs / work.pairs * (model_flops(shape, work) + again)
    read = 3 if work.checkpointing else 2
    trained = trained_parameters(shape, work)
    moved = passes * read * shape.linear_parameters * BYTES[work.weights] + trained * BYTES[work.trained] * 7
    linears = sum(kind.count for kind in shape.linears)
    layer_calls = (read - 1) * (3 * linears + OTHER_CALLS * shape.layers) + 6 * linears + 2 * OTHER_CALLS * shape.layers
    seconds = max(flops / gpu.flops, moved / gpu.bandwidth)
    useful = model_flops(shape, replace(work, pairs=step_pairs, checkpointing=False))
    return {
        "flops": flops, "bytes": moved, "calls": float(passes * layer_calls), "seconds": seconds,
        "launch_seconds": passes * layer_calls * LAUNCH, "utilisation": useful / seconds / gpu.flops,
        "pairs_per_second": step_pairs / seconds,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table, write the JSON, return what was written."""
    options = parser(__file__, "A training step counted on paper.")
    options.add_argument("--model", nargs="*", default=list(SETTINGS), choices=list(SETTINGS), help="whose size")
    options.add_argument("--pairs", type=int, default=16, help="pairs per optimiser step of one GPU")
    options.add_argument("--rank", type=int, default=128, help="of LoRA")
    given = options.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name in given.model:
        shape, (image, text) = shape_of(meta_model(name)), SETTINGS[name]
        for gpu in (GPUS["a100_80gb"], GPUS["h200"]):
            now = Workload(
                image + text, image, RESPONSE, rank=given.rank, weights="bfloat16", autocast="bfloat16", fused=True,
                layout="shared", attention="flex_attention", head_chunk=rows_per_chunk(shape.vocabulary),
            )  # fmt: skip
            fit = max(1, min(given.pairs, largest_micro_batch(shape, now, int(0.9 * gpu.bytes))))
            ways = {
                "separate, recomputed, one pair": replace(now, layout="separate", attention="sdpa", checkpointing=True),
                "shared, recomputed, one pair": replace(now, checkpointing=True),
                f"shared, {fit} pairs": replace(now, pairs=fit),
            }
            rows += [
                {"model": name, "gpu": gpu.title, "way": way, **counts(shape, work, gpu, given.pairs)}
                for way, work in ways.items()
            ]
    shown = [
        [row["model"], row["gpu"], row["way"], row["flops"] / 1e12, row["bytes"] / 1e9, int(row["calls"]),
         row["seconds"], row["launch_seconds"], f"{row['utilisation']:.0%}", row["pairs_per_second"]]
        for row in rows
    ]  # fmt: skip
    head = [
        "model",
        "card",
        "way",
        "TFLOP",
        "GB",
        "calls",
        "s, at least",
        "s to launch",
        "of the peak, at most",
        "pairs/s",
    ]
    print(table(head, shown))
    content = {"pairs": given.pairs, "rank": given.rank, "response_tokens": RESPONSE, "rows": rows}
    write_json(given.json, content)
    return content


if __name__ == "__main__":
    main()
