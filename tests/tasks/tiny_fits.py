"""A tiny policy and a handful of pairs that it makes itself, for fits that take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from augment.diffusion import Diffusion
from datamodules.preference import PreferenceDataModule
from datamodules.shapes.source import ShapesSource
from parallax.models.policy import Policy
from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.proposers.by_view import ByView
from parallax.preference.selector import BestAgainstRest
from tests import typed
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy

TRAINER: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "precision": "auto", "strategy": "auto", "max_epochs": 2, "max_steps": -1,
    "gradient_clip_val": 1.0, "batch_size": 4, "micro_batch_size": 2, "num_workers": 0, "log_every_n_steps": 1,
    "checkpoint": {"every_n_steps": 1, "keep": 10},
}  # fmt: skip
STAGE: dict[str, Any] = {
    "name": "align",
    "loss": {"_target_": "lightning_modules.objectives.DPO", "beta": 0.1, "label_smoothing": 0.0},
    "reference": {"mode": "cached", "source": "initial"},
    "optim": {"name": "adamw", "lr": 1e-2, "scheduler": "cosine", "warmup_ratio": 0.0, "warmup_steps": None},
    "trainer": TRAINER,
    "pairs": {"refresh": "never"},
}


def policy_and_pairs(
    folder: Path,
    *,
    trainer: dict[str, Any] | None = None,
    mode: str = "cached",
    repeat: int = 1,
    model: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
) -> tuple[Policy, PreferenceDataModule]:
    """A fresh policy and its datamodule over ten scenes; checkpoint and cache lie in `folder`."""
    if not (folder / "llava").is_dir():
        make_tiny_checkpoint("llava", folder / "llava", seed=3)
    policy = load_policy(
        {"path": str(folder / "llava"), **(model or {})}, {"r": 4, "enabled": True, **(lora or {})}, seed=0
    )
    datamodule = PreferenceDataModule(
        ShapesSource("pairs_habit_free", size=10),
        ByView(Diffusion(noise_steps=900), max_new_tokens=6),
        ByConstruction(),
        BestAgainstRest(drop_equal=False),
        cache_dir=folder / "cache",
        trainer=typed.trainer(**(trainer or TRAINER)),
        pairs=typed.pairs(repeat=repeat),
        reference_mode=mode,
        show_progress=False,
    )
    return policy, datamodule
