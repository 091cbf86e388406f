"""Words about memory: what counts as running out, which levers are named, and how much there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parallax.models.memory.advice import (
    NotEnoughMemory,
    Options,
    explained,
    generation_levers,
    is_out_of_memory,
    start_line,
    training_levers,
    warning,
)
from parallax.models.memory.device_memory import DeviceMemory, _left_in_cgroup, device_memory, peak_resident
from parallax.models.memory.model_shape import shape_of
from parallax.models.memory.planner import Workload, plan_training
from parallax.models.true_size import meta_model

GB = 10**9
SEVA = Workload(
    616, 576, 512, pairs=4, micro_batches=32, rank=1024, weights="bfloat16", autocast="bfloat16"
)  # fmt: skip


@pytest.fixture(scope="module")
def shape():  # type: ignore[no-untyped-def]
    return shape_of(meta_model("llava15_7b"))


def test_real_failures_are_known_and_others_are_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as of_python:
        bytearray(2**62)
    assert is_out_of_memory(of_python.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(other.value)


def test_an_allocation_that_fails_ends_with_advice_and_other_errors_pass() -> None:
    with (
        pytest.raises(
            NotEnoughMemory, match=r"memory ran out while training \(.*tried to allocate.*\)\. Turn it down\."
        ),
        explained("training", lambda: "Turn it down."),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), explained("training", lambda: "never said"):
        torch.ones(2) @ torch.ones(3)


def test_levers_save_what_they_say_and_the_best_comes_first(shape) -> None:  # type: ignore[no-untyped-def]
    levers = training_levers(shape, SEVA, Options(shares_prompts=True), limit=80 * GB)
    savings = [lever.saving for lever in levers]
    assert savings == sorted(savings, reverse=True) and min(savings) > 0
    by_setting = {lever.setting: lever.saving for lever in levers}
    peak = plan_training(shape, SEVA).peak
    checkpointed = plan_training(shape, replace(SEVA, checkpointing=True)).peak
    assert by_setting["trainer.activation_checkpointing=true"] == peak - checkpointed
    assert {"model.layout=shared", "lora.r=512", "optim=adamw_8bit", "generation.max_new_tokens=256"} <= set(by_setting)
    assert any(setting.startswith("trainer.micro_batch_size=") for setting in by_setting)
    without = training_levers(shape, SEVA, Options(shares_prompts=True, eight_bit_moments=False), limit=80 * GB)
    assert {lever.setting for lever in without} == set(by_setting) - {"optim=adamw_8bit"}


def test_a_token_budget_is_turned_where_one_is_in_use(shape) -> None:  # type: ignore[no-untyped-def]
    work = replace(SEVA, rank=128)
    levers = training_levers(shape, work, Options(micro_batch_tokens=9024), limit=75 * GB)
    budget = next(lever.setting for lever in levers if "micro_batch" in lever.setting)
    assert budget in ("trainer.micro_batch_tokens=4512", "trainer.micro_batch_tokens=2256")


def test_images_of_free_size_and_generation_have_levers_of_their_own(shape) -> None:  # type: ignore[no-untyped-def]
    levers = generation_levers(shape, SEVA, Options(max_pixels=451584), rows=128, new_tokens=512)
    assert {lever.setting for lever in levers} == {
        "generation.batch_size=64", "model.max_pixels=225792", "generation.max_new_tokens=256",
    }  # fmt: skip
    assert levers[0].setting == "generation.batch_size=64"


def test_the_line_says_what_there_is_and_warns_when_it_is_too_little(shape) -> None:  # type: ignore[no-untyped-def]
    plan = plan_training(shape, SEVA)
    roomy = DeviceMemory(free=10 * plan.peak, held=0, name="a large GPU")
    line = start_line(plan, roomy, SEVA)
    assert line.startswith(
        "memory: 8 rows of 1,128 tokens at a time, 9.62 B parameters, 2.56 B trained; expected peak "
    )
    assert warning(plan, roomy, []) == ""
    tight = DeviceMemory(free=plan.peak // 2, held=0, name="this machine")
    levers = training_levers(shape, SEVA, Options(), limit=plan.peak // 2)
    said = warning(plan, tight, levers)
    assert (
        "does not fit" in said
        and "without a word" in said
        and f"Most effective first: {levers[0].setting} (saves" in said
    )
    assert "close to all" in warning(plan, DeviceMemory(int(plan.peak * 1.01), 0, "a GPU"), levers)


def test_a_control_group_limits_what_is_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    assert _left_in_cgroup(tmp_path) == 500000
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_cgroup(tmp_path) is None
    assert _left_in_cgroup(tmp_path / "nowhere") is None


def test_memory_of_this_machine_is_seen_while_it_is_taken() -> None:
    before = device_memory("cpu")
    assert before.free > 0 and before.held > 10**7
    assert peak_resident(lambda: torch.ones(64 * 2**20)) - before.held > 200 * 10**6
