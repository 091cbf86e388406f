"""Words about memory: one line before a fit, which lever to turn when it is too little, and what an out-of-memory error means.

Each lever is the same work with one setting changed, so that its saving is a forecast too. The most effective comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from parallax.models.memory.device_memory import DeviceMemory
from parallax.models.memory.model_shape import ModelShape
from parallax.models.memory.planner import Plan, Workload, plan_generation, plan_training

CLOSE = 0.9  # a forecast above this share of what there is counts as close
SHOWN = 5  # levers that are named

OUT_OF_MEMORY_WORDS = (
    "not enough memory: you tried to allocate", "DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
)  # fmt: skip


class NotEnoughMemory(RuntimeError):
    """An allocation failed. The message says what was forecast, what there was, and which levers help, the best first."""


@dataclass(frozen=True, slots=True)
class Lever:
    """A setting that would lower the peak, and by how many bytes."""

    setting: str
    saving: int


@dataclass(frozen=True, slots=True)
class Options:
    """What a configuration lets be turned, beside the work itself.

    Attributes:
        micro_batch_tokens: token budget per forward pass; 0 where micro-batches are counted in pairs.
        max_pixels: largest number of pixels of an image; 0 for families with one image size.
        shares_prompts: whether the family takes the shared layout.
        eight_bit_moments: whether the strategy takes bitsandbytes' optimisers.
    """

    micro_batch_tokens: int = 0
    max_pixels: int = 0
    shares_prompts: bool = False
    eight_bit_moments: bool = True


def training_levers(shape: ModelShape, work: Workload, options: Options, limit: int) -> list[Lever]:
    """What would lower the peak of a training step. `limit`: bytes that are there; a micro-batch that fits is named."""
    now = plan_training(shape, work).peak
    changes: list[tuple[str, Workload]] = []
    if work.pairs > 1:
        fewer = next(
            (n for n in _halves(work.pairs) if plan_training(shape, _with_pairs(work, n)).peak <= CLOSE * limit), 1
        )
        if options.micro_batch_tokens:
            budget = fewer * work.tokens // work.pairs
            changes.append((f"trainer.micro_batch_tokens={budget}", _with_pairs(work, fewer)))
        else:
            changes.append((f"trainer.micro_batch_size={fewer}", _with_pairs(work, fewer)))
    if not work.checkpointing:
        changes.append(("trainer.activation_checkpointing=true", replace(work, checkpointing=True)))
    if work.layout == "separate" and options.shares_prompts:
        changes.append(
            (
                "model.layout=shared",
                replace(work, layout="shared", attention="prefix_sdpa" if work.attention == "sdpa" else work.attention),
            )
        )
    if work.full:
        changes.append(("lora=default lora.r=64", replace(work, rank=64, reference="none")))
    elif work.rank > 8:
        changes.append((f"lora.r={work.rank // 2}", replace(work, rank=work.rank // 2)))
    if work.optimiser == "adamw" and options.eight_bit_moments:
        changes.append(("optim=adamw_8bit", replace(work, optimiser="adamw_8bit")))
    if work.full and work.reference == "live":
        changes.append(("reference=cached", replace(work, reference="cached")))
    changes += _of_both(work, options)
    if work.responses > 2:
        changes.append((f"pairs.num_negatives={work.responses - 2}", replace(work, responses=work.responses - 1)))
    return _sorted((setting, now - plan_training(shape, changed).peak) for setting, changed in changes)


def generation_levers(
    shape: ModelShape, work: Workload, options: Options, rows: int, new_tokens: int, held: int = 0
) -> list[Lever]:
    """What would lower the peak of generating `rows` answers at once."""

    def peak(work: Workload, rows: int, new_tokens: int) -> int:
        return plan_generation(shape, work, rows, new_tokens, held).peak

    now = peak(work, rows, new_tokens)
    found = [(f"generation.batch_size={rows // 2}", now - peak(work, rows // 2, new_tokens))] if rows > 1 else []
    for setting, changed in _of_both(work, options):
        tokens = changed.response_tokens if setting.startswith("generation.max_new_tokens") else new_tokens
        found.append((setting, now - peak(changed, rows, tokens)))
    return _sorted(found)


def start_line(plan: Plan, memory: DeviceMemory, work: Workload) -> str:
    """Tokens per row, parameters, the expected peak and what there is."""
    parts = ", ".join(f"{name} {size(value)}" for name, value in plan.parts.items() if value >= 0.01 * plan.peak)
    several = f" on each of {work.processes} processes" if work.processes > 1 else ""
    return (
        f"memory: {plan.rows} rows of {plan.tokens_per_row:,} tokens at a time, {count(plan.parameters)} parameters, "
        f"{count(plan.trained)} trained; expected peak {size(plan.peak)}{several} ({parts}); "
        f"{size(there(plan, memory))} there on {memory.name}"
    )


def there(plan: Plan, memory: DeviceMemory) -> int:
    """Bytes that the plan may have: what is free, and what its weights hold already."""
    return memory.free + min(memory.held, plan.resident)


def warning(plan: Plan, memory: DeviceMemory, levers: list[Lever]) -> str:
    """What to do when the forecast does not fit or is close; empty when there is room."""
    have = there(plan, memory)
    if plan.peak <= CLOSE * have:
        return ""
    how = "does not fit" if plan.peak > have else "is close to all there is"
    killed = " The system may end the process without a word when memory runs out." if "machine" in memory.name else ""
    return f"The expected peak of {size(plan.peak)} {how} ({size(have)}).{killed} {advice(levers)}"


def advice(levers: list[Lever]) -> str:
    """The levers in order, as a sentence."""
    if not levers:
        return "There is no lever left that saves memory: use a smaller model or a larger device."
    named = ", ".join(f"{lever.setting} (saves {size(lever.saving)})" for lever in levers[:SHOWN])
    return f"Most effective first: {named}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


@contextmanager
def explained(doing: str, explain: Callable[[], str]) -> Iterator[None]:
    """Inside: an allocation that fails ends as `NotEnoughMemory`: what was being done, what failed, then `explain()`."""
    try:
        yield
    except NotEnoughMemory:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or ["an allocation failed"])[0][:200]
        raise NotEnoughMemory(f"memory ran out while {doing} ({first}). {explain()}") from error


def size(number: int) -> str:
    """Bytes in GB, or in MB below 1 GB (powers of ten)."""
    return f"{number / 1e9:.3g} GB" if abs(number) >= 1e9 else f"{number / 1e6:.3g} MB"


def count(number: int) -> str:
    """`7.06 B`, `19.8 M`, `512 k`."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {letter}"
    return str(number)


def _of_both(work: Workload, options: Options) -> list[tuple[str, Workload]]:
    """What helps training and generation alike."""
    changes: list[tuple[str, Workload]] = []
    if options.max_pixels and work.image_tokens > 1:
        fewer = work.image_tokens // 2
        changed = replace(work, prompt_tokens=work.prompt_tokens - work.image_tokens + fewer, image_tokens=fewer)
        changes.append((f"model.max_pixels={options.max_pixels // 2}", changed))
    if work.response_tokens > 8:
        half = work.response_tokens // 2
        changes.append((f"generation.max_new_tokens={half}", replace(work, response_tokens=half)))
    if work.weights == "float32":
        autocast = "bfloat16" if work.trained == "float32" else work.autocast
        changes.append(("model.dtype=bfloat16", replace(work, weights="bfloat16", autocast=autocast)))
    return changes


def _with_pairs(work: Workload, pairs: int) -> Workload:
    return replace(work, pairs=pairs, micro_batches=work.micro_batches * -(-work.pairs // pairs))


def _halves(number: int) -> Iterator[int]:
    while number > 1:
        number //= 2
        yield number


def _sorted(found: Iterator[tuple[str, int]] | list[tuple[str, int]]) -> list[Lever]:
    return sorted((Lever(setting, saving) for setting, saving in found if saving > 0), key=lambda lever: -lever.saving)
