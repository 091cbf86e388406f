"""The main job on the built-in world, small: what it leaves behind, what it uses again, and where it goes on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from parallax.settings.check import check
from parallax.tasks import number_of, run_task

SMALL = (
    "data.size=16", "trainer.batch_size=8", "trainer.micro_batch_size=4", "trainer.max_epochs=1", "evaluation.scenes=6",
    "evaluation.pope_scenes=1", "evaluation.bootstrap=50", "trainer=cpu", "logger=none", "generation.max_new_tokens=48",
)  # fmt: skip

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Run:
    """`run("folder", "loss=stic")`: a small run in `tmp_path/folder` with one cache per test; gives results.json."""

    def start(name: str, *overrides: str) -> dict[str, Any]:
        folder = tmp_path / name
        cfg = compose_config(*SMALL, *overrides, f"paths.output_dir={folder}", f"paths.cache_dir={tmp_path / 'cache'}")
        check(cfg)
        value = run_task(cfg)
        results = folder / "results.json"
        content: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
        return {**content, "value": number_of(value, cfg), "folder": folder}

    return start


def test_one_run_leaves_everything_a_user_needs(run: Run) -> None:
    results = run("first", "loss=dpo", "export.merged=true", "evaluation.every_n_steps=1")
    folder = results["folder"]
    for name in ("config.yaml", "environment.json", "run.log", "results.json", "report.html", "metrics.csv"):
        assert (folder / name).stat().st_size > 0, name
    pairs = results["pairs"]
    assert pairs["built"] == 32 and pairs["reused"] == 0
    assert pairs["kept"] + sum(pairs["dropped"].values()) == 16
    for side in ("before", "after", "difference"):
        assert {"chair_i", "chair_s", "recall", "accuracy", "pope_accuracy"} <= set(results[side])
        assert set(results[side]["chair_i"]) >= {"value", "low", "high"}
    assert results["value"] == pytest.approx(results["difference"]["chair_i"]["value"])
    pointer = json.loads((folder / "stages/align/pairs.json").read_text())
    assert pointer["kept"] == pairs["kept"] and Path(pointer["pair_set"]).is_dir()
    assert "train/rewards/margins" in (folder / "stages/align/metrics.csv").read_text()
    assert list((folder / "stages/align/checkpoints").glob("step-*.ckpt"))

    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained("assets/tiny_llava")
    tuned = PeftModel.from_pretrained(base, str(folder / "stages/align/adapter")).merge_and_unload()
    merged = AutoModelForImageTextToText.from_pretrained(folder / "merged")
    for (name, ours), (_, theirs) in zip(tuned.named_parameters(), merged.named_parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name


def test_the_first_loss_is_the_logarithm_of_two(run: Run) -> None:
    from parallax.reports.metrics_csv import curve, read_metrics

    folder = run("first", "evaluation.when=[]")["folder"]
    _, losses = curve(read_metrics(folder / "stages/align/metrics.csv"), "train/loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)


def test_another_beta_reuses_all_answers_and_another_noise_step_the_clean_ones(run: Run) -> None:
    first = run("first", "evaluation.when=[]")
    beta = run("beta", "evaluation.when=[]", "loss.beta=0.4", "lora.r=8")
    noise = run("noise", "evaluation.when=[]", "aug.noise_steps=700")
    assert (first["pairs"]["built"], first["pairs"]["reused"]) == (32, 0)
    assert (beta["pairs"]["built"], beta["pairs"]["reused"]) == (0, 32)
    assert (noise["pairs"]["built"], noise["pairs"]["reused"]) == (16, 16)
    assert "reference log-probs: 0 computed" in (beta["folder"] / "run.log").read_text()


def test_several_negatives_start_at_the_logarithm_of_one_plus_k(run: Run) -> None:
    from parallax.reports.metrics_csv import curve, read_metrics

    results = run("multi", "method=seva_multi", "pairs.num_negatives=2", "aug.noise_steps=900", "evaluation.when=[]")
    _, losses = curve(read_metrics(results["folder"] / "stages/align/metrics.csv"), "train/loss")
    assert losses[0] == pytest.approx(math.log(3), abs=1e-5)


def test_a_run_that_was_cut_goes_on_to_the_very_same_adapter(run: Run, tmp_path: Path) -> None:
    words = (
        "evaluation.when=[]",
        "trainer.checkpoint.every_n_steps=1",
        "trainer.checkpoint.keep=9",
        "trainer.batch_size=4",
    )
    whole = run("whole", *words)
    assert whole["steps"] >= 3
    cut = tmp_path / "cut"
    shutil.copytree(whole["folder"], cut)  # as a kill after the second step leaves it
    (cut / "results.json").unlink()
    shutil.rmtree(cut / "stages/align/adapter")
    for path in (cut / "stages/align/checkpoints").glob("step-*.ckpt"):
        if path.name > "step-000002.ckpt":
            path.unlink()
    again = run("cut", *words)
    assert "going on from" in (cut / "run.log").read_text()
    assert again["steps"] == whole["steps"] and again["pairs"]["built"] == 0
    adapters = [(r["folder"] / "stages/align/adapter/adapter_model.safetensors").read_bytes() for r in (whole, again)]
    assert adapters[0] == adapters[1]
    with pytest.raises(FileExistsError, match="holds a run already"):
        run("whole", *words, "resume=never")
    with pytest.raises(FileExistsError, match="another configuration"):
        run("whole", *words, "loss.beta=0.2")


def test_controls_train_on_pairs_that_are_not_the_models_preference(run: Run) -> None:
    straight = run("straight", "evaluation.when=[]")
    for control in ("swapped", "random_rejected"):
        other = run(control, "evaluation.when=[]", f"pairs.control={control}")
        assert other["pairs"]["built"] == 0 and other["pairs"]["kept"] == straight["pairs"]["kept"]
        sets = [json.loads((r["folder"] / "stages/align/pairs.json").read_text())["key"] for r in (straight, other)]
        assert sets[0] != sets[1]


def test_pairs_can_be_built_alone_and_an_adapter_merged_alone(run: Run, tmp_path: Path) -> None:
    built = run("pairs", "task=build_pairs")
    assert json.loads((built["folder"] / "pairs.json").read_text())["built"] == 32
    tuned = run("tuned", "evaluation.when=[]")
    assert tuned["pairs"]["built"] == 0
    run("merge", "task=merge", f"adapter={tuned['folder'] / 'stages/align/adapter'}")
    assert (tmp_path / "merge/merged/model.safetensors").is_file()
    with pytest.raises(FileExistsError, match="not empty"):
        run("merge", "task=merge", f"adapter={tuned['folder'] / 'stages/align/adapter'}")


def test_full_fine_tuning_and_refreshed_pairs_run(run: Run) -> None:
    full = run("full", "evaluation.when=[]", "lora=none")
    assert (full["folder"] / "stages/align/adapter/model.safetensors").is_file()
    refreshed = run("refresh", "evaluation.when=[]", "pairs.refresh=epoch", "trainer.max_epochs=2", "optim.lr=1e-2")
    assert refreshed["stages"]["align"]["segments"] == 2
