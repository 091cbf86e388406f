"""The memory planner against the allocator: real training steps of models with random weights, on this machine.

    python benchmarks/memory.py                       # 20 M and 60 M parameters on a CPU, a few minutes
    python benchmarks/memory.py --model 20m --quick    # a few shapes of the small one

Prints one row per shape: what was forecast, what the allocator handed out at most (weights, gradients and moments included),
and their ratio. The numbers do not depend on how busy the machine is.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if entry != str(ROOT / "benchmarks")),
]  # not this folder's names

import torch

from benchmarks.allocator import peak_of
from benchmarks.measure import parser, table, use_threads, write_json
from benchmarks.random_model import SIZES, autocast, model_config, random_pairs, random_policy
from parallax.models.memory.model_shape import shape_of
from parallax.models.memory.planner import Plan, Workload, plan_training
from parallax.models.scoring.log_probs import rows_per_chunk

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def shapes(model: str, quick: bool) -> Iterator[Workload]:
    """The work that is tried: two response lengths, one and three rejected answers, two batches, both layouts."""
    prompt = 616 if model != "tiny" else 40
    image = int(model_config(model).image_seq_length)
    start = Workload(prompt, image, 64, rank=64)
    grid = itertools.product((64, 128), (2, 4), (2, 4), (False, True), ("separate", "shared"))
    for number, (tokens, responses, pairs, checkpointing, layout) in enumerate(grid):
        if not quick or number % 11 == 0:
            yield replace(
                start, response_tokens=tokens, responses=responses, pairs=pairs, checkpointing=checkpointing, layout=layout,
                attention="prefix_sdpa" if layout == "shared" else "sdpa", fused=bool(number % 2),
            )  # fmt: skip
    yield replace(start, weights="bfloat16", autocast="bfloat16", pairs=2)
    yield replace(start, micro_batches=2, checkpointing=True, layout="shared")
    yield replace(start, weights="bfloat16", autocast="bfloat16", pairs=2, fused=True)
    if not quick:
        yield replace(start, weights="bfloat16", autocast="bfloat16", pairs=2, layout="shared", checkpointing=True)
        yield replace(start, rank=0, pairs=2)
        yield replace(start, rank=0, pairs=2, weights="bfloat16", autocast="bfloat16")
        yield replace(start, attention="eager", pairs=2)


def measured(model: str, work: Workload, device: str = "cpu") -> tuple[Plan, int]:
    """The forecast, and the most bytes that weights, moments and one optimiser step really took."""
    policy = random_policy(
        model, rank=work.rank, layout=work.layout, attention=work.attention, dtype=DTYPES[work.weights], device=device,
        checkpointing=work.checkpointing, fused=work.fused,
    )  # fmt: skip
    learned = [parameter for _, parameter in policy.trainable_parameters()]
    if work.autocast:
        for parameter in learned:
            parameter.data = parameter.data.float()
    optimiser = torch.optim.AdamW(learned, lr=1e-6)
    _make_moments(learned, optimiser)
    always = _bytes(policy.model.parameters()) + _bytes(
        value for state in optimiser.state.values() for value in state.values()
    )
    dtype = DTYPES[work.autocast] if work.autocast else None
    batch = random_pairs(
        model_config(model), pairs=work.pairs, prompt_tokens=work.prompt_tokens, response_tokens=work.response_tokens,
        responses=work.responses,
    )  # fmt: skip
    batch = batch.to(device)

    def step() -> None:
        with autocast(device, dtype):
            for _ in range(work.micro_batches):
                policy.score(batch.scoring).total.sum().backward()
        optimiser.step()

    work = replace(work, head_chunk=rows_per_chunk(model_config(model).text_config.vocab_size))
    return plan_training(shape_of(policy.model), work), always + peak_of(step, device)


def _make_moments(parameters: list[Any], optimiser: torch.optim.Optimizer) -> None:
    """The optimiser's state as it is from the second step on, before anything is measured."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def described(work: Workload) -> str:
    """The shape in a few words."""
    words = [f"{work.pairs} x {work.responses} x {work.response_tokens}", work.layout]
    words += ["checkpointing"] if work.checkpointing else []
    words += [work.autocast] if work.autocast else []
    words += ["all weights"] if work.full else []
    words += ["two micro-batches"] if work.micro_batches > 1 else []
    words += ["fused"] if work.fused else []
    words += [work.attention] if work.attention != "sdpa" else []
    return ", ".join(words)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table, write the JSON, return what was written."""
    options = parser(__file__, "The memory planner against the allocator.", rounds=1)
    options.add_argument("--model", nargs="*", default=["20m", "60m"], choices=list(SIZES), help="sizes to try")
    options.add_argument("--quick", action="store_true", help="a few shapes only")
    given = options.parse_args(arguments)
    use_threads(given.threads)
    rows, found = [], []
    for model in given.model:
        for work in shapes(model, given.quick):
            plan, real = measured(model, work)
            rows.append([model, described(work), plan.moment, plan.peak / 1e6, real / 1e6, round(plan.peak / real, 3)])
            found.append({"model": model, "work": described(work), **plan.as_data(), "measured_bytes": real})
            print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    head = ["model", "pairs x responses x tokens", "largest moment", "forecast MB", "measured MB", "ratio"]
    print(table(head, rows))
    ratios = [row["peak_bytes"] / row["measured_bytes"] for row in found]
    print(f"\nforecast / measured lies between {min(ratios):.3f} and {max(ratios):.3f} over {len(ratios)} shapes")
    content = {"rows": found, "smallest_ratio": min(ratios), "largest_ratio": max(ratios)}
    write_json(given.json, content)
    return content


if __name__ == "__main__":
    main()
