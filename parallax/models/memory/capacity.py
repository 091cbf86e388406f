"""What fits on a GPU that is not there, and the least time it can take: the memory planner and a roofline, as a table.

The forecast of memory is `memory_planner.py`'s. The bound on time counts what cannot be avoided when pairs are built: every
weight is read once per decoding step, the keys and values of every row too, and a multiply-add costs two operations; nothing
overlaps badly, nothing is wasted. A real run takes longer, so a bound says what is hopeless, not what will be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parallax.models.memory.model_shape import ModelShape
from parallax.models.memory.planner import Workload, plan_generation, plan_training
from parallax.models.memory.workload import BYTES

MOST_PAIRS = 256  # a micro-batch larger than this brings nothing
MOST_ROWS = 512  # answers generated at once


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card as its maker describes it.

    Attributes:
        gib: memory that programs see, in GiB.
        flops: dense bfloat16 operations per second.
        bandwidth: bytes of memory read per second.
    """

    title: str
    gib: float
    flops: float
    bandwidth: float

    @property
    def bytes(self) -> int:
        return int(self.gib * 2**30)


GPUS = {
    "rtx4090": Gpu("RTX 4090, 24 GB", 23.6, 165e12, 1.01e12),
    "a100_40gb": Gpu("A100, 40 GB", 39.4, 312e12, 1.56e12),
    "a100_80gb": Gpu("A100/A800, 80 GB", 79.2, 312e12, 2.04e12),
    "h100_80gb": Gpu("H100, 80 GB", 79.2, 989e12, 3.35e12),
    "h200": Gpu("H200, 141 GB", 139.8, 989e12, 4.8e12),
}


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to train. `arguments` is what a user adds to the command; `changes` are fields of `Workload`."""

    title: str
    arguments: str
    adapter: bool
    several: bool
    changes: tuple[tuple[str, Any], ...] = ()


SETUPS = {
    "lora": Setup("LoRA, one GPU", "trainer=gpu", True, False),
    "lora_ddp": Setup("LoRA, DDP", "trainer=ddp", True, True, (("strategy", "ddp"),)),
    "lora_sharded": Setup("LoRA, FSDP", "trainer=fsdp2", True, True, (("strategy", "sharded"),)),
    "qlora": Setup("QLoRA (NF4), one GPU", "model.quantization=nf4", True, False, (("quantization", "nf4"),)),
    "full_sharded": Setup("full fine-tuning, FSDP", "lora=none trainer=fsdp2", False, True, (("strategy", "sharded"),)),
}


@dataclass(frozen=True, slots=True)
class Fit:
    """Largest micro-batch, in pairs per GPU, of one line of the table; 0 where not even one pair fits. One entry per GPU."""

    setup: str
    rank: int  # 0 for full fine-tuning
    negatives: int
    pairs: tuple[int, ...]


def fits(
    shape: ModelShape,
    gpus: Sequence[Gpu],
    setups: Sequence[str],
    ranks: Sequence[int],
    negatives: Sequence[int],
    work: Workload,
    usable: float,
    processes: int,
) -> Iterator[Fit]:
    """Every line of the table. `work` gives token counts; the rest of it is set here, as a run on a GPU has it: bfloat16
    weights under autocast, the shared layout, activation checkpointing, chunks in the output head, a cached reference."""
    for name in setups:
        setup = SETUPS[name]
        for rank in ranks if setup.adapter else (0,):
            for count in negatives:
                asked = replace(
                    work,
                    responses=1 + count,
                    rank=rank,
                    processes=processes if setup.several else 1,
                    **dict(setup.changes),
                )
                limits = [int(usable * gpu.bytes) for gpu in gpus]
                yield Fit(name, rank, count, tuple(largest_micro_batch(shape, asked, limit) for limit in limits))


def largest_micro_batch(shape: ModelShape, work: Workload, limit: int) -> int:
    """Most pairs of one forward pass whose forecast stays within `limit` bytes; 0 where one pair does not fit."""
    return _largest(lambda pairs: plan_training(shape, replace(work, pairs=pairs)).peak <= limit, MOST_PAIRS)


def largest_generation(shape: ModelShape, work: Workload, limit: int) -> int:
    """Most answers generated at once within `limit` bytes; 0 where one does not fit."""
    return _largest(lambda rows: plan_generation(shape, work, rows, work.response_tokens).peak <= limit, MOST_ROWS)


def least_seconds_per_image(shape: ModelShape, work: Workload, gpu: Gpu, rows: int, answers: int) -> float:
    """Bound on building the answers of one image: roofline of reading the prompt and of decoding, `rows` answers at once.

    Args:
        answers: 1 + K, each with an image and a prompt of its own and `work.response_tokens` tokens.
    """
    if rows < 1:
        return float("inf")
    size = BYTES[work.weights]
    language = shape.linear_parameters + shape.head
    prompt = 2 * (language * work.prompt_tokens + shape.vision_and_projector * work.image_tokens) / gpu.flops
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * size  # keys and values of one position
    held = work.prompt_tokens + work.response_tokens / 2  # positions a row has on average
    read = (language * size + rows * held * per_token) / gpu.bandwidth
    step = max(read, 2 * language * rows / gpu.flops)
    return answers * (prompt + step * work.response_tokens / rows)


def _largest(holds: object, most: int) -> int:
    """Largest number from 0 to `most` for which `holds`, which is true up to some number and false above it."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)  # type: ignore[operator]
    return low
