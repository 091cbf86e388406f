"""What fits on a GPU that is not there: the search against the planner, the bound on time against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parallax.models.memory.capacity import (
    GPUS,
    SETUPS,
    fits,
    largest_generation,
    largest_micro_batch,
    least_seconds_per_image,
)
from parallax.models.memory.model_shape import ModelShape, shape_of
from parallax.models.memory.planner import Workload, plan_generation, plan_training
from parallax.models.true_size import meta_model

WORK = Workload(
    prompt_tokens=640, image_tokens=576, response_tokens=256, layout="shared", weights="bfloat16", autocast="bfloat16",
    attention="prefix_sdpa", checkpointing=True, rank=128, fused=True, head_chunk=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def llava() -> ModelShape:
    return shape_of(meta_model("llava15_7b"))


@pytest.mark.parametrize("gpu", ["a100_40gb", "h200"])
def test_the_largest_micro_batch_fits_and_one_pair_more_does_not(llava: ModelShape, gpu: str) -> None:
    limit = int(0.9 * GPUS[gpu].bytes)
    pairs = largest_micro_batch(llava, WORK, limit)
    assert plan_training(llava, replace(WORK, pairs=pairs)).peak <= limit
    assert plan_training(llava, replace(WORK, pairs=pairs + 1)).peak > limit


def test_the_most_answers_at_once_fit_and_one_more_does_not(llava: ModelShape) -> None:
    limit = int(0.9 * GPUS["a100_80gb"].bytes)
    rows = largest_generation(llava, WORK, limit)
    assert plan_generation(llava, WORK, rows, 256).peak <= limit < plan_generation(llava, WORK, rows + 1, 256).peak


def test_weights_alone_do_not_fit_on_a_small_card(llava: ModelShape) -> None:
    assert largest_micro_batch(llava, WORK, 10 * 2**30) == 0
    assert largest_generation(llava, WORK, 10 * 2**30) == 0


def test_the_table_has_a_line_for_each_rank_and_count_and_one_rank_for_full_fine_tuning(llava: ModelShape) -> None:
    gpus = [GPUS["a100_80gb"], GPUS["h200"]]
    lines = list(fits(llava, gpus, list(SETUPS), [64, 1024], [1, 4], WORK, 0.9, 8))
    assert [(line.setup, line.rank, line.negatives) for line in lines if line.setup in ("lora", "full_sharded")] == [
        ("lora", 64, 1), ("lora", 64, 4), ("lora", 1024, 1), ("lora", 1024, 4), ("full_sharded", 0, 1), ("full_sharded", 0, 4),
    ]  # fmt: skip
    found = {(line.setup, line.rank, line.negatives): line.pairs for line in lines}
    assert all(small <= large for small, large in found.values()), "more memory never takes fewer pairs"
    assert found["lora_sharded", 1024, 1] > found["lora_ddp", 1024, 1], "sharding spreads weights and moments"
    assert found["qlora", 64, 1] > found["lora", 64, 1]


def test_the_bound_is_the_roofline_written_out(llava: ModelShape) -> None:
    gpu, rows = GPUS["a100_80gb"], 10
    language = llava.linear_parameters + llava.head
    prompt = 2 * (language * 640 + llava.vision_and_projector * 576) / 312e12
    cache = 2 * 32 * 32 * 128 * 2  # bytes of keys and values per position: 32 layers, 32 heads of 128, bfloat16
    step = (language * 2 + rows * (640 + 128) * cache) / 2.04e12
    assert step > 2 * language * rows / 312e12, "at ten answers decoding waits for memory"
    assert least_seconds_per_image(llava, WORK, gpu, rows, answers=2) == pytest.approx(2 * (prompt + step * 256 / rows))
    assert least_seconds_per_image(llava, WORK, gpu, 0, answers=2) == float("inf")
