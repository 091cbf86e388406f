"""Fits of whole stages: pairs built by a real tiny policy, tuned, rebuilt, stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.preference import PreferenceDataModule
from datamodules.shapes.source import ShapesSource
from datamodules.supervised import SupervisedDataModule
from lightning_modules.callbacks import newest_checkpoint
from parallax.models.policy import Policy
from parallax.reports.metrics_csv import read_metrics
from parallax.settings.groups import Stage
from parallax.tasks.training import fit_stage, total_steps
from tests import typed
from tests.tasks.tiny_fits import STAGE, TRAINER, policy_and_pairs
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint("llava", tmp_path_factory.mktemp("llava"), seed=3)


@pytest.fixture
def policy_and_data(checkpoint: Path, tmp_path: Path) -> Callable[..., tuple[Policy, PreferenceDataModule]]:
    """A fresh policy and its datamodule over ten scenes, with one cache for all of a test."""

    def make(mode: str = "cached", cache: str = "cache") -> tuple[Policy, PreferenceDataModule]:
        home = tmp_path / cache
        home.mkdir(exist_ok=True)
        if not (home / "llava").exists():
            (home / "llava").symlink_to(checkpoint)
        return policy_and_pairs(home, mode=mode)

    return make


def learned(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.trainable_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def stage_with(**changes: Any) -> Stage:
    return typed.stage(**{**STAGE, **changes})


def losses(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in read_metrics(folder / "metrics.csv")]


def test_a_stage_is_fitted_from_images_to_a_changed_adapter(policy_and_data: Any, tmp_path: Path) -> None:
    policy, datamodule = policy_and_data()
    name = policy.fingerprint()
    summary = fit_stage(policy, datamodule, typed.stage(**STAGE), tmp_path / "stage")
    assert (summary["steps"], summary["total_steps"], summary["segments"]) == (6, 6, 1)  # two passes of 4 + 4 + 2 pairs
    rows = read_metrics(tmp_path / "stage" / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert float(rows[0]["train/loss"]) == pytest.approx(0.693147, abs=1e-5)
    assert summary["metrics"]["train/loss"] == pytest.approx(float(rows[-1]["train/loss"]), abs=1e-6)
    assert summary["pair_reports"][0]["kept"] == 10 and summary["bad_steps"] == []
    assert Path(summary["checkpoint"]).name == "step-000006.ckpt"
    assert policy.fingerprint() != name
    assert not policy.model.training


def test_a_cached_reference_gives_the_losses_of_a_live_one(policy_and_data: Any, tmp_path: Path) -> None:
    for mode in ("cached", "live"):
        policy, datamodule = policy_and_data(mode)
        fit_stage(policy, datamodule, stage_with(reference={"mode": mode}), tmp_path / mode)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), abs=1e-5)


@pytest.mark.parametrize(("refresh", "starts"), [("epoch", [0, 3]), ("2_steps", [0, 2, 4])])
def test_pairs_are_built_again_by_the_policy_as_it_then_is(
    policy_and_data: Any, tmp_path: Path, refresh: str, starts: list[int]
) -> None:
    policy, datamodule = policy_and_data()
    makers: list[str] = []
    build = datamodule.build_pairs

    def spy(maker: Policy, trainer: Any = None) -> Any:
        makers.append(maker.fingerprint())
        return build(maker, trainer)

    datamodule.build_pairs = spy
    summary = fit_stage(policy, datamodule, stage_with(pairs={"refresh": refresh}), tmp_path / "stage")
    assert summary["segments"] == len(starts) == len(summary["pair_reports"]) == len(set(makers))
    assert summary["steps"] == 6
    rates = [float(row["train/lr"]) for row in read_metrics(tmp_path / "stage" / "metrics.csv")]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 6  # one schedule over all segments
    assert summary["pair_reports"][1]["built"] == 20  # another policy's answers: nothing to reuse


@pytest.mark.parametrize("refresh", ["never", "2_steps"])
@pytest.mark.parametrize("stopped_at", [2, 3, 6])
def test_a_resumed_stage_equals_an_uninterrupted_one(
    policy_and_data: Any, tmp_path: Path, refresh: str, stopped_at: int
) -> None:
    stage = stage_with(pairs={"refresh": refresh})
    whole, datamodule = policy_and_data(cache="one")
    expected = fit_stage(whole, datamodule, stage, tmp_path / "whole")

    class Killed(Exception):
        pass

    import pytorch_lightning as pl

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == min(stopped_at, 5):  # one step after the last checkpoint it will find
                raise Killed

    folder = tmp_path / "cut"
    first, datamodule = policy_and_data(cache="two")
    with pytest.raises(Killed):
        fit_stage(first, datamodule, stage, folder, callbacks=[Kill()])
    again, datamodule = policy_and_data(cache="two")
    summary = fit_stage(again, datamodule, stage, folder, resume_from=newest_checkpoint(folder / "checkpoints"))

    assert summary["steps"] == 6
    rows = read_metrics(folder / "metrics.csv")
    assert rows == read_metrics(tmp_path / "whole" / "metrics.csv")
    assert [float(row["epoch"]) for row in rows] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert summary["metrics"] == expected["metrics"]
    assert same(learned(again), learned(whole))


def test_a_finished_stage_is_only_loaded_again(policy_and_data: Any, tmp_path: Path) -> None:
    done, datamodule = policy_and_data()
    fit_stage(done, datamodule, typed.stage(**STAGE), tmp_path)
    again, datamodule = policy_and_data()
    summary = fit_stage(
        again, datamodule, typed.stage(**STAGE), tmp_path, resume_from=newest_checkpoint(tmp_path / "checkpoints")
    )
    assert summary["steps"] == 6 and same(learned(again), learned(done))
    assert len(losses(tmp_path)) == 6


def test_the_number_of_steps() -> None:
    assert total_steps(stage_with(), 3) == 6
    assert total_steps(stage_with(trainer={**TRAINER, "max_steps": 4}), 3) == 4
    assert total_steps(stage_with(trainer={**TRAINER, "max_steps": 400}), 3) == 6
    assert total_steps(stage_with(debug={"max_steps": 2, "epochs": None}), 3) == 2
    assert total_steps(stage_with(debug={"max_steps": None, "epochs": 40}), 3) == 120


def test_a_value_that_is_not_allowed_and_an_unknown_key_are_refused() -> None:
    with pytest.raises(ValueError, match="'often' is not allowed: it must be one of never, epoch, <n>_steps"):
        stage_with(pairs={"refresh": "often"})
    with pytest.raises(ValueError, match="Trainer has no precisoin; it has accelerator"):
        stage_with(trainer={**TRAINER, "precisoin": "auto"})


def test_a_supervised_stage_learns_the_answers(checkpoint: Path, tmp_path: Path) -> None:
    policy = load_policy({"path": str(checkpoint)}, {"r": 4, "enabled": True}, seed=0)
    datamodule = SupervisedDataModule(ShapesSource("pairs_habit_free", size=8), trainer=typed.trainer(**TRAINER))
    optim = {**STAGE["optim"], "scheduler": "constant"}
    stage = stage_with(name="sft", optim=optim, trainer={**TRAINER, "max_epochs": 5})
    summary = fit_stage(policy, datamodule, stage, tmp_path)
    assert summary["steps"] == 10
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] - 0.2


def test_fine_tuning_on_the_chosen_alone_needs_no_reference(policy_and_data: Any, tmp_path: Path) -> None:
    policy, datamodule = policy_and_data()
    loss = {"_target_": "lightning_modules.objectives.NLL", "norm": "per_token", "constant": 1024.0}
    fit_stage(policy, datamodule, stage_with(loss=loss), tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
