"""`trainer=deepspeed` in two processes on a CPU learns what one plain process learns.

DeepSpeed leaves small weights whole in every process; here it is told to divide them all (`stage3_param_persistence_threshold`),
so that what is tested is what happens with large ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import in_processes
from tests.tasks.test_align import SMALL
from tests.tasks.test_many_processes import (
    CONF,
    assert_same_adapter,
    fit,
    home_with_model,
    losses,
    run_config,
)
from tests.tasks.zero_here import let_deepspeed_compute_here, needs_deepspeed

pytestmark = [pytest.mark.slow, needs_deepspeed]

DIVIDE_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
UNEVEN = {"batch_size": 5, "micro_batch_size": 1, "gradient_clip_val": 0.05}  # three micro-batches here and two there
STAGES = {
    "weights_divided": {"stage": 3, "config": DIVIDE_ALL},
    "small_weights_whole": {"stage": 3},
    "gradients_divided": {"stage": 2},
    "moments_in_host_memory": {"stage": 3, "offload_optimizer": True, "config": DIVIDE_ALL},
    "gradients_and_host": {"stage": 2, "offload_optimizer": True},
    "all_in_host_memory": {"stage": 3, "offload_optimizer": True, "offload_parameters": True, "config": DIVIDE_ALL},
}


def fit_here(folder: Path, out: Path, changes: dict[str, Any], *rest: Any) -> None:
    if changes["strategy"] == "deepspeed":
        let_deepspeed_compute_here()
    fit(folder, out, changes, *rest)


def start(
    folder: Path,
    name: str,
    count: int,
    *,
    mode: str = "cached",
    resume: Path | None = None,
    stop: int = 0,
    **changes: Any,
) -> Path:
    out = folder / name
    out.mkdir(exist_ok=True)
    home_with_model(folder / f"home-{name}")
    changes = {"devices": count, "strategy": "deepspeed" if count > 1 else "auto", **UNEVEN, **changes}
    in_processes(count, fit_here, folder / f"home-{name}", out, changes, mode, resume, stop, {}, timeout=600)
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit by one plain process."""
    return start(tmp_path_factory.mktemp("alone"), "one", 1)


@pytest.mark.parametrize("way", STAGES)
def test_two_processes_learn_what_one_learns(alone: Path, tmp_path: Path, way: str) -> None:
    mode = "live" if way == "weights_divided" else "cached"
    recompute = way == "weights_divided"
    two = start(tmp_path, "two", 2, mode=mode, deepspeed=STAGES[way], activation_checkpointing=recompute)
    assert losses(two) == pytest.approx(losses(alone), rel=1e-5)
    assert len(losses(alone)) == 4 and losses(alone)[-1] < losses(alone)[0]
    first, *both = (torch.load(path) for path in (alone / "got-0.pt", two / "got-0.pt", two / "got-1.pt"))
    assert first["metrics"]["train/grad_norm"] > 0.05  # so clipping was at work
    for got in both:
        assert got["pairs"] == first["pairs"]
        assert got["metrics"] == pytest.approx(first["metrics"], rel=1e-4, abs=1e-5)
    assert_same_adapter(alone / "adapter", two / "adapter")


HOPS = {
    "from_two_to_one": [("deepspeed", 2, "small_weights_whole"), ("auto", 1, None)],
    "from_one_to_three": [("auto", 1, None), ("deepspeed", 3, "weights_divided")],  # three divide no tensor evenly
    "from_fsdp2": [("fsdp2", 2, None), ("deepspeed", 2, "gradients_divided")],
    "to_fsdp": [("deepspeed", 2, "gradients_divided"), ("fsdp", 2, None)],
    "from_stage_to_stage": [("deepspeed", 3, "all_in_host_memory"), ("deepspeed", 2, "gradients_and_host")],
    "in_one_file": [("deepspeed", 2, "moments_in_host_memory"), ("deepspeed", 2, "small_weights_whole")],
}


@pytest.mark.parametrize("hop", HOPS)
def test_a_run_that_was_stopped_goes_on_with_other_processes_and_strategies(
    alone: Path, tmp_path: Path, hop: str
) -> None:
    (wrote, before, way), (reads, after, other) = HOPS[hop]
    kept = {"every_n_steps": 1, "keep": 10, "sharded": hop != "in_one_file"}
    settings: dict[str, Any] = {"checkpoint": kept, "deepspeed": STAGES.get(way or "", {})}
    out = start(tmp_path, "run", before, stop=2, strategy=wrote, **settings)
    newest = sorted((out / "checkpoints").glob("step-*.ckpt"))[-1]
    step = int(newest.stem[-6:])
    assert 1 <= step < 4 and not (out / "adapter").exists()
    assert newest.is_dir() == (wrote != "auto" and hop != "in_one_file")
    settings["deepspeed"] = STAGES.get(other or "", {})
    resumed = losses(start(tmp_path, "run", after, resume=newest, strategy=reads, **settings))[-(4 - step) :]
    assert resumed == pytest.approx(losses(alone)[step:], rel=1e-5)
    assert_same_adapter(alone / "adapter", out / "adapter")


def run_here(words: list[str]) -> None:
    let_deepspeed_compute_here()
    run_config(words)


def test_a_whole_run_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured before and after, with the adapter that the fit leaves on disk."""
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    words = [
        *SMALL,
        "method=seva",
        "optim.lr=1e-3",
        "trainer.batch_size=4",
        "trainer.micro_batch_size=1",
        "resume=never",
    ]
    divide_all = "trainer.deepspeed.config={zero_optimization: {stage3_param_persistence_threshold: 0}}"
    two_words = ["trainer=deepspeed", "trainer.accelerator=auto", "trainer.devices=2", divide_all]
    for name, count, more in (("one", 1, []), ("two", 2, two_words)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        in_processes(count, run_here if count == 2 else run_config, [*words, *more, *places], timeout=900)
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5) and len(losses(one)) >= 2
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    for key in ("before", "after", "pairs"):
        assert ours[key] == theirs[key]
    assert_same_adapter(one / "stages/align/adapter", two / "stages/align/adapter")

    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained("assets/tiny_llava")
    PeftModel.from_pretrained(base, str(two / "stages/align/adapter"))
