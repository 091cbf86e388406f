"""A training step at the size of LLaVA-1.5-7B with random weights on one GPU: time, tokens/s, FLOP utilisation, peak memory.

    python benchmarks/gpu_step.py                               # LLaVA-1.5-7B, 2 and 5 responses, both layouts
    python benchmarks/gpu_step.py --model qwen25_vl_7b --pixels 1003520
    python benchmarks/gpu_step.py --strategies ddp fsdp fsdp2   # and the same step under Lightning's strategies, by one process
    python benchmarks/gpu_step.py --toy                         # a toy on a CPU: does the script still work?

Weights are drawn on the device from `parallax/models/architectures/<model>.json`; nothing is downloaded. bfloat16 weights,
LoRA in float32 on every linear layer of the language model, autocast in bfloat16, a cached reference, AdamW. A step is
forward, backward and update over one micro-batch; `--pairs 0` takes as many pairs as the memory planner says fit in every
layout. TRL's `DPOTrainer` takes the same LLaVA, precision, LoRA and batch where it is installed, with two responses only,
which is all it knows; its reference is always live.

Model FLOPs are those of the tokens that a layout reads, recomputation not counted: 2 per weight and token forward, 2
backward through a frozen weight, 4 through a trained one, attention 4 x width x Hq per token over half the square, three
times for both passes. Utilisation is against the device's dense bfloat16 peak (`PEAK_FLOPS`, by name, from the makers' data
sheets).
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if entry != str(ROOT / "benchmarks")),
]  # not this folder's names

import torch

from benchmarks.allocator import peak_of
from benchmarks.measure import interleaved, medians, parser, table, use_threads, write_json
from benchmarks.random_model import autocast, image_tokens, model_config, names, random_pairs, random_policy
from benchmarks.strategy_rows import STRATEGIES, strategy_rows
from lightning_modules.objectives import DPO, MultiNegative
from parallax.models.loading import layout_for
from parallax.models.memory.device_memory import device_memory
from parallax.models.memory.model_shape import ModelShape, shape_of
from parallax.models.memory.planner import Workload, plan_training
from parallax.models.policy import Policy

PEAK_FLOPS = {  # dense bfloat16 tensor operations per second, without sparsity
    "H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12,
    "L40S": 362e12, "A10G": 70e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


def peak_flops(name: str) -> float | None:
    """The device's peak, by the longest known part of its name; None where it is not known."""
    known = [part for part in PEAK_FLOPS if part in name]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def model_flops(shape: ModelShape, work: Workload, patches: int | None = None) -> float:
    """Floating-point operations of one micro-batch, forward and backward, as the module's docstring counts them.

    `patches`: what the tower reads of an image; None = as many as the image has tokens.
    """
    base, adapter = shape.linear_parameters, 0
    if not work.full:
        adapter = sum(work.rank * (kind.inputs + kind.outputs) * kind.count for kind in shape.linears)
    per_token = (6 if work.full else 4) * base + 6 * adapter
    squares = work.rows * work.width**2 / 2
    if work.layout == "shared":  # responses do not see each other
        answers, prompt = work.responses * work.response_tokens, work.prompt_tokens
        squares = work.pairs * (prompt**2 / 2 + answers * prompt + work.responses * work.response_tokens**2 / 2)
    attention = 3 * 4 * squares * shape.heads * shape.head_dim * shape.layers
    scored = work.pairs * work.responses * work.response_tokens
    head = (6 if work.full else 4) * scored * shape.vocabulary * shape.hidden
    images = 2 * shape.vision_and_projector * work.pairs * (patches or work.image_tokens)
    return work.tokens * per_token + attention + head + images


def largest(shape: ModelShape, works: list[Workload], most: int, limit: int) -> int:
    """Pairs that the planner says fit for all of `works`; at least 1, at most `most`."""
    fits = 1
    for pairs in range(2, most + 1):
        if max(plan_training(shape, replace(work, pairs=pairs)).peak for work in works) > 0.9 * limit:
            break
        fits = pairs
    return fits


class Side:
    """Training steps of one layout on the shared policy; the optimiser is made anew, and its moments exist."""

    def __init__(self, policy: Policy, work: Workload, device: str) -> None:
        self.policy, self.work, self.device = policy, work, device
        self.layout = layout_for(work.layout, policy.model)
        self.attention = policy.model.get_base_model().config.get_text_config()._attn_implementation
        batch = random_pairs(
            policy.model.get_base_model().config, pairs=work.pairs, prompt_tokens=work.prompt_tokens,
            response_tokens=work.response_tokens, responses=work.responses, image=work.image_tokens,
        )  # fmt: skip
        self.batch = batch.to(device)
        self.objective = DPO(beta=0.1) if work.responses == 2 else MultiNegative(beta=0.1)
        self.learned = [parameter for _, parameter in policy.trainable_parameters()]
        self.optimiser: torch.optim.Optimizer | None = None

    def step(self) -> None:
        """Forward, backward, update."""
        if self.optimiser is None:
            self.optimiser = torch.optim.AdamW(self.learned, lr=1e-6)
        self.policy.layout = self.layout
        self.policy.model.get_base_model().config.get_text_config()._attn_implementation = self.attention
        dtype = torch.bfloat16 if self.work.autocast else None
        with autocast(self.device, dtype):
            scores = self.policy.score(self.batch.scoring)
            loss = self.objective(scores.total, self.batch.reference_log_probs, scores.counts).loss
            loss.mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def give_back(self) -> None:
        """Forget the optimiser."""
        self.optimiser = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def held_by(policy: Policy) -> int:
    """Bytes of weights and of two moments of what is trained."""
    weights = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    return weights + 2 * sum(p.numel() * p.element_size() for _, p in policy.trainable_parameters())


def measure(policy: Policy, works: list[Workload], given: Any, device: str) -> list[dict[str, Any]]:
    """One entry per layout: times of steps taken in turns, then the peak of a step on its own against the forecast."""
    shape = shape_of(policy.model)
    sides = {work.layout: Side(policy, work, device) for work in works}
    times = interleaved({name: side.step for name, side in sides.items()}, given.rounds, given.warmup)
    middle, name = medians(times), torch.cuda.get_device_name() if device == "cuda" else "a CPU"
    top = peak_flops(name)
    found = []
    for work in works:
        for side in sides.values():
            side.give_back()
        side, seconds = sides[work.layout], middle[work.layout]
        side.step()  # moments are there from the first step on
        real = held_by(policy) + peak_of(side.step, device)
        plan, flops = plan_training(shape, work), model_flops(shape, work, _patches(policy, work))
        found.append(
            {
                "layout": work.layout, "responses": work.responses, "pairs": work.pairs, "seconds": seconds,
                "pairs_per_second": work.pairs / seconds, "tokens_per_second": work.tokens / seconds,
                "model_flops": flops, "utilisation": flops / seconds / top if top else None, "peak_flops": top, "device": name,
                "peak_bytes": real, "forecast_bytes": plan.peak, "forecast_over_peak": plan.peak / real,
                "times": times[work.layout],
            }
        )  # fmt: skip
    return found


def trl_side(policy: Policy, work: Workload, given: Any, device: str) -> dict[str, Any] | None:
    """TRL's `DPOTrainer` on the same model, LoRA, precision and batch; None without TRL or LLaVA."""
    if find_spec("trl") is None or policy.model.get_base_model().config.model_type != "llava":
        return None
    from benchmarks.trl_step import TrlStep

    peer = TrlStep(policy.model, work, device)
    times = interleaved({"TRL": peer.step}, given.rounds, given.warmup)
    seconds = medians(times)["TRL"]
    real = held_by(policy) + peak_of(peer.step, device)
    return {
        "layout": "TRL", "responses": 2, "pairs": work.pairs, "seconds": seconds, "pairs_per_second": work.pairs / seconds,
        "tokens_per_second": peer.tokens / seconds, "model_flops": None, "utilisation": None, "peak_bytes": real,
        "forecast_bytes": None, "forecast_over_peak": None, "times": times["TRL"],
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table, write the JSON, return what was written. Raises SystemExit where there is no GPU and no --tiny."""
    options = parser(__file__, "A training step at 7B size on a GPU.", rounds=5)
    options.add_argument("--model", default="llava15_7b", choices=names(), help="whose size")
    options.add_argument("--responses", type=int, nargs="*", default=[2, 5], help="responses per image")
    options.add_argument("--response-tokens", type=int, default=128, help="tokens of a response")
    options.add_argument("--question-tokens", type=int, default=40, help="tokens of a prompt beside its image")
    options.add_argument("--pixels", type=int, default=1_003_520, help="of an image, in families of free size")
    options.add_argument(
        "--pairs", type=int, default=0, help="pairs per step; 0 = as many as fit by forecast, 32 at most"
    )
    options.add_argument("--rank", type=int, default=64, help="of LoRA")
    options.add_argument("--checkpointing", action="store_true", help="recompute activations")
    options.add_argument("--no-trl", action="store_true", help="leave TRL out")
    options.add_argument(
        "--strategies",
        nargs="*",
        default=[],
        choices=STRATEGIES,
        help="also the separate layout under these, by one process",
    )
    options.add_argument(
        "--tiny", "--toy", action="store_true", help="a toy of the family on the CPU, to try the script"
    )
    given = options.parse_args(arguments)
    use_threads(given.threads)
    device = "cpu" if given.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here (torch sees none); try the script itself with --tiny")
    model = given.model
    if given.tiny:
        model, given.pixels = "tiny_qwen" if model.startswith("qwen") else "tiny", 16 * 28 * 28
    policy = _built(model, given, device)
    found: list[dict[str, Any]] = []
    image, limit = image_tokens(model_config(model), given.pixels), _limit(policy, device)
    dtype = policy.precision
    for responses in given.responses:
        one = Workload(
            image + given.question_tokens, image, given.response_tokens, responses=responses, rank=given.rank,
            weights=dtype, autocast=dtype if dtype != "float32" else None, checkpointing=given.checkpointing,
            fused=_is_fused(policy),
        )  # fmt: skip
        works = [one, replace(one, layout="shared", attention="prefix_sdpa")]
        pairs = given.pairs or largest(shape_of(policy.model), works, 2 if given.tiny else 32, limit)
        works = [replace(work, pairs=pairs) for work in works]
        found += measure(policy, works, given, device)
        if given.strategies:
            held, policy = held_by(policy), None  # type: ignore[assignment]  # one copy of the weights at a time
            gc.collect()
            found += strategy_rows(
                lambda: _built(model, given, device), works[0], held, device, given.strategies,
                rounds=given.rounds, warmup=given.warmup,
            )  # fmt: skip
            policy = _built(model, given, device)
        _write(found, model, given, dtype)  # what is there when the hour ends early
        if responses == 2 and not given.no_trl:  # TRL sets the model up in its own way
            policy = None  # type: ignore[assignment]
            gc.collect()
            peer = trl_side(_built(model, given, device, fused=False), works[0], given, device)
            found += [peer] if peer else []
            gc.collect()
            policy = _built(model, given, device)
    _print(found, given)
    return _write(found, model, given, dtype)


def _write(found: list[dict[str, Any]], model: str, given: Any, dtype: str) -> dict[str, Any]:
    content = {"model": model, "rank": given.rank, "response_tokens": given.response_tokens, "precision": dtype,
               "checkpointing": given.checkpointing, "rows": found}  # fmt: skip
    write_json(given.json, content)
    return content


def _built(model: str, given: Any, device: str, fused: bool = True) -> Policy:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    began = time.perf_counter()
    policy = random_policy(
        model,
        rank=given.rank,
        dtype=dtype,
        device=device,
        checkpointing=given.checkpointing,
        fused=fused and given.rank > 0,
    )
    print(f"{shape_of(policy.model).parameters:,} parameters in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return policy


def _limit(policy: Policy, device: str) -> int:
    memory = device_memory(device)
    return memory.free + (memory.held if device == "cuda" else 0)


def _patches(policy: Policy, work: Workload) -> int:
    vision = policy.model.get_base_model().config.vision_config
    return work.image_tokens * int(getattr(vision, "spatial_merge_size", 1)) ** 2


def _is_fused(policy: Policy) -> bool:
    from parallax.models.fused_lora import FusedLinear

    return any(isinstance(module, FusedLinear) for module in policy.model.modules())


def _print(found: list[dict[str, Any]], given: Any) -> None:
    shown: dict[str, Callable[[dict[str, Any]], Any]] = {
        "responses": lambda row: row["responses"],
        "layout": lambda row: row["layout"],
        "pairs": lambda row: row["pairs"],
        "s per step": lambda row: row["seconds"],
        "pairs/s": lambda row: row["pairs_per_second"],
        "tokens/s": lambda row: row["tokens_per_second"],
        "utilisation": lambda row: "not known" if row["utilisation"] is None else f"{row['utilisation']:.1%}",
        "peak GB": lambda row: row["peak_bytes"] / 1e9,
        "forecast GB": lambda row: "-" if row["forecast_bytes"] is None else row["forecast_bytes"] / 1e9,
    }
    print(table(list(shown), [[value(row) for value in shown.values()] for row in found]))
    top, name = found[0]["peak_flops"], found[0]["device"]
    said = (
        f"a peak of {top / 1e12:.0f} TFLOP/s in bfloat16" if top else "a peak that is not known here, so no utilisation"
    )
    print(f"\non {name}, with {said}; {given.rounds} rounds, sides in turn")
    if not given.no_trl and find_spec("trl") is None:
        print("TRL is not installed and was left out")


if __name__ == "__main__":
    main()
