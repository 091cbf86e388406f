"""What the image term costs: a step of loss=mdpo beside one of loss=dpo, with a cached reference.

    python -m benchmarks.image_term [--model 20m] [--device cpu] [--dtype float32] [--pairs 1] [--answer 128] [--steps 5]

Random weights and tokens. Counted: forward, backward and the optimiser's update. The two take turns, and the medians are shown.
Memory is the peak that torch allocated on a GPU; a CPU tells none. Tokens say what is to be expected: DPO reads prompt and both
answers (once each in the shared layout), the image term reads the prompt and the chosen answer once more.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median

import torch

from augment.occlusion import Crop
from benchmarks.random_model import model_config, names, random_pairs, random_policy
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO, MDPO, Objective
from parallax.models.batch import PairBatch
from parallax.models.policy import Policy
from parallax.settings.groups import Optim
from parallax.settings.shipped import shipped
from tests.parts import part

RANK, TEXT = 64, 24  # of the adapter; tokens of a prompt beside its image


def with_look(batch: PairBatch) -> PairBatch:
    """The chosen answers beside other pictures; the reference's log-probs are zeros as in `batch`."""
    scoring = batch.scoring
    vision = [{name: value.flip(-1) for name, value in image.items()} for image in scoring.vision]
    look = replace(
        scoring,
        response_ids=scoring.response_ids[:, :1],
        response_lengths=scoring.response_lengths[:, :1],
        vision=vision,
    )
    return replace(batch, looks=[look], reference_log_probs=torch.zeros(len(batch), 3))


def step(policy: Policy, objective: Objective, batch: PairBatch, optimiser: torch.optim.Optimizer) -> tuple[float, int]:
    """Seconds of one step, and the bytes that torch held at most on a GPU (0 on a CPU)."""
    module = DPOModule(policy, objective, shipped(Optim, lr=1e-5), total_steps=1)
    on_gpu = policy.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    module.losses(batch)[0].mean().backward()
    optimiser.step()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() if on_gpu else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=names(), default="20m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layout", default="auto", choices=["auto", "shared", "separate"])
    for name, default in (("--pairs", 1), ("--answer", 128), ("--steps", 5)):
        parser.add_argument(name, type=int, default=default)
    given = parser.parse_args()
    config = model_config(given.model)
    prompt = int(config.image_seq_length) + TEXT
    policy = random_policy(
        given.model, rank=RANK, layout=given.layout, dtype=getattr(torch, given.dtype), device=given.device
    )
    pairs = random_pairs(config, pairs=given.pairs, prompt_tokens=prompt, response_tokens=given.answer, responses=2)
    plain = pairs.to(given.device)
    kinds: dict[str, tuple[Objective, PairBatch]] = {
        "dpo": (part(DPO), plain), "mdpo": (part(MDPO, part(Crop)), with_look(pairs).to(given.device))
    }  # fmt: skip
    optimiser = torch.optim.AdamW([value for _, value in policy.trainable_parameters()], lr=1e-5)
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in kinds}
    for number in range(given.steps + 1):  # the first of each is not counted
        for name, (objective, batch) in kinds.items():
            measured = step(policy, objective, batch, optimiser)
            taken[name] += [measured] if number else []
    seconds = {name: median(value for value, _ in rows) for name, rows in taken.items()}
    for name, rows in taken.items():
        memory = max(held for _, held in rows)
        print(f"{name}: {seconds[name]:.3f} s a step" + (f", {memory / 2**30:.2f} GiB at most" if memory else ""))
    shared = (2 * prompt + 3 * given.answer) / (prompt + 2 * given.answer)
    print(f"mdpo / dpo: {seconds['mdpo'] / seconds['dpo']:.2f} (tokens: {shared:.2f} where answers share their prompt)")


if __name__ == "__main__":
    main()
