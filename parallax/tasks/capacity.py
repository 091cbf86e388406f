"""What fits on which GPU, and the least time that a million images take there. Calculated; nothing is loaded or run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from omegaconf import DictConfig, OmegaConf

from parallax.models.memory.capacity import GPUS, MOST_PAIRS, SETUPS, fits, largest_generation, least_seconds_per_image
from parallax.models.memory.model_shape import ModelShape, shape_of
from parallax.models.memory.planner import Workload
from parallax.models.scoring.log_probs import rows_per_chunk
from parallax.models.scoring.shared_prefix import is_plainly_causal
from parallax.models.true_size import meta_model
from parallax.records.atomic import atomic_write_text
from parallax.records.plain_text import markdown, markdown_table, say
from parallax.reports.run_log import run_log
from parallax.settings.groups import Task
from parallax.settings.ranges import Count, OneOf, PositiveShare

log = logging.getLogger(__name__)

IMAGE_TOKENS = {  # of the largest image at a preset's default budget, where it is not LLaVA-1.5's 576, as its processor counts
    "llava16_mistral_7b": 2928, "qwen25_vl_3b": 1280, "qwen3_vl_8b": 1280, "qwen3_vl_4b": 1280, "qwen3_vl_2b": 1280,
    "internvl3_8b": 3328, "gemma3_4b": 256, "llava_onevision_7b": 8765, "smolvlm2_2b": 1377,
}  # fmt: skip


@dataclass(frozen=True)
class Keys(Task):
    models: Sequence[
        Literal[
            "llava15_7b", "llava15_13b", "llava16_mistral_7b", "qwen25_vl_7b", "qwen25_vl_3b", "qwen3_vl_8b", "qwen3_vl_4b",
            "qwen3_vl_2b", "internvl3_8b", "gemma3_4b", "llava_onevision_7b", "smolvlm2_2b",
        ]
    ]  # fmt: skip
    gpus: Sequence[Annotated[str, OneOf(GPUS)]]
    setups: Sequence[Annotated[str, OneOf(SETUPS)]]
    processes: Annotated[int, Ge(2)]
    ranks: Sequence[Count]
    negatives: Sequence[Count]
    image_tokens: Count | None
    question_tokens: Count
    response_tokens: Count
    usable: PositiveShare
    output: str | None


def run(cfg: DictConfig) -> None:
    """Write the tables of `task.models` on `task.gpus` to `task.output` and show them."""
    task: dict[str, Any] = OmegaConf.to_container(cfg.task, resolve=True)  # type: ignore[assignment]
    folder = Path(str(cfg.paths.output_dir))
    with run_log(folder):
        text = "\n\n".join(_model(name, task) for name in task["models"]) + "\n"
        path = Path(task["output"] or folder / "capacity.md")
        atomic_write_text(path, text)
        say(text)
        log.info("written to %s", path)


def _model(name: str, task: dict[str, Any]) -> str:
    """The two tables of one model."""
    model = meta_model(name)
    shape = shape_of(model)
    gpus = [GPUS[gpu] for gpu in task["gpus"]]
    image = int(task["image_tokens"] or IMAGE_TOKENS.get(name, 576))
    prompt = image + int(task["question_tokens"])
    work = Workload(
        prompt_tokens=prompt, image_tokens=image, response_tokens=int(task["response_tokens"]),
        layout="shared", weights="bfloat16", autocast="bfloat16", checkpointing=True, fused=True,
        attention="prefix_sdpa" if is_plainly_causal(model) else "sdpa", head_chunk=rows_per_chunk(shape.vocabulary),
    )  # fmt: skip
    lines = fits(
        shape,
        gpus,
        task["setups"],
        task["ranks"],
        task["negatives"],
        work,
        float(task["usable"]),
        int(task["processes"]),
    )
    rows = [
        [SETUPS[fit.setup].title, fit.rank or "–", fit.negatives, *(_pairs(number) for number in fit.pairs)]
        for fit in lines
    ]
    titles = [gpu.title for gpu in gpus]
    several = f" Where several GPUs work together, there are {task['processes']}." if rows else ""
    return "\n\n".join(
        [
            f"### {markdown(name)}",
            f"{shape.parameters / 1e9:.2f} billion parameters, {prompt} + {work.response_tokens} tokens. Largest "
            f"micro-batch in pairs per GPU; – means that not one pair fits.{several}",
            markdown_table(["", "LoRA rank", "K", *titles], rows),
            "Building pairs with one rejected answer, bfloat16, one GPU: answers generated at once, and the least hours for a "
            "million images (a bound, not a measurement).",
            markdown_table(["", *titles], _building(shape, work, gpus, float(task["usable"]))),
        ]
    )


def _building(shape: ModelShape, work: Workload, gpus: Sequence[Any], usable: float) -> list[list[Any]]:
    at_once = [largest_generation(shape, work, int(usable * gpu.bytes)) for gpu in gpus]
    seconds = [least_seconds_per_image(shape, work, gpu, rows, 2) for gpu, rows in zip(gpus, at_once, strict=True)]
    return [
        ["answers at once", *(rows or "–" for rows in at_once)],
        ["hours per million images, at least", *(f"{1e6 * s / 3600:.0f}" if s < 1e9 else "–" for s in seconds)],
        ["images per day, at most", *(f"{86400 / s:,.0f}" if s < 1e9 else "–" for s in seconds)],
    ]


def _pairs(number: int) -> str:
    return "–" if number == 0 else f"≥ {number}" if number == MOST_PAIRS else str(number)
