"""A long fit needs as much memory at its end as at its beginning."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytorch_lightning as pl

from datamodules.preference import PreferenceDataModule
from datamodules.shapes.source import ShapesSource
from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.proposers.by_view import ByView
from parallax.preference.selector import BestAgainstRest
from parallax.tasks.training import fit_stage
from tests import typed
from tests.faults import Injected
from tests.tasks.tiny_fits import STAGE, TRAINER, policy_and_pairs

STEPS, PAIRS_PER_STEP, WARM = 2_000, 10, 400


class Resident(pl.Callback):
    """Resident memory of this process in bytes, every hundred steps."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % 100 == 0:
            gc.collect()
            self.at[trainer.global_step] = psutil.Process().memory_info().rss


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_steps_and_twenty_thousand_images(tmp_path: Path, injected: Injected) -> None:
    from augment.diffusion import Diffusion

    trainer = {
        **TRAINER, "batch_size": PAIRS_PER_STEP, "micro_batch_size": PAIRS_PER_STEP, "max_epochs": 1_000, "max_steps": STEPS,
        "checkpoint": {"every_n_steps": 200, "keep": 2},
    }  # fmt: skip
    policy, _ = policy_and_pairs(tmp_path)
    policy.features = None  # every image is drawn, processed and seen by the tower in every step
    datamodule = PreferenceDataModule(
        ShapesSource("pairs_habit_free", size=200), ByView(Diffusion(noise_steps=900), max_new_tokens=6), ByConstruction(),
        BestAgainstRest(drop_equal=False), cache_dir=tmp_path / "cache", trainer=trainer, show_progress=False,
    )  # fmt: skip
    datamodule.build_pairs(policy)
    resident = Resident()
    summary = fit_stage(
        policy, datamodule, typed.stage(**{**STAGE, "trainer": trainer}), tmp_path / "fit", callbacks=[resident]
    )
    assert summary["steps"] == STEPS and len(resident.at) == STEPS // 100
    early = max(size for step, size in resident.at.items() if step <= WARM)
    late = max(size for step, size in resident.at.items() if step > STEPS - WARM)
    assert late <= 1.02 * early, {step: f"{size / 2**20:.1f} MiB" for step, size in resident.at.items()}
    injected(
        "training steps in one process, ten images each", used=STEPS, says="resident memory flat within 2 %",
        MiB_by_step_400=early // 2**20, MiB_after_step_1600=late // 2**20,
    )  # fmt: skip
