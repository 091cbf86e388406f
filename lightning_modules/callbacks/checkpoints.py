"""Checkpoints that are whole or absent, few, and named so that a shell takes them without quoting.

`checkpoints/step-000120.ckpt` holds what is trained, the optimiser, the schedule and the step. The newest `keep` stay. A
`segment-000100.ckpt` holds the state in which a set of pairs came into use: to go on from step 120, the pairs of that
moment are needed, and the policy that made them.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from lightning_modules.checkpoint_files import is_whole

log = logging.getLogger(__name__)

UNFINISHED = ".tmp-"  # how names of checkpoints that are being written begin


class StepCheckpoints(Checkpoint):
    """Saves every so many optimiser steps and at the end, keeps the newest.

    Args:
        folder: where checkpoints go.
        every_n_steps: optimiser steps between two of them; None saves at the end only.
        keep: how many of the newest stay, at least 1.
        sharded: read by the strategy; here only to be allowed.
    """

    def __init__(
        self, folder: Path | str, *, every_n_steps: int | None = None, keep: int = 2, sharded: bool = True
    ) -> None:
        if keep < 1:
            raise ValueError(f"trainer.checkpoint.keep={keep}: at least one checkpoint must be kept")
        self.folder, self.every_n_steps, self.keep = Path(folder), every_n_steps, keep

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save when the step is due."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step."""
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> Path:
        """Write a checkpoint of the present step and remove the oldest. Called on every process."""
        path = self.folder / f"step-{trainer.global_step:06d}.ckpt"
        if not trainer.strategy.broadcast(path.exists()):
            unfinished = path.with_name(UNFINISHED + path.name)
            trainer.save_checkpoint(unfinished, weights_only=False)
            if trainer.is_global_zero:
                _flush(unfinished)
                os.replace(unfinished, path)
            trainer.strategy.barrier("checkpoint")
        if trainer.is_global_zero:
            for old in checkpoints_in(self.folder)[: -self.keep]:
                _remove(old)
        return path

    def copy(self, path: Path, kind: str) -> None:
        """Keep an existing checkpoint under another kind's name; those of that kind before it are removed."""
        for old in checkpoints_in(self.folder, kind):
            if step_of(old) != step_of(path):
                _remove(old)
        target = self.folder / f"{kind}-{step_of(path):06d}.ckpt"
        if not target.exists():
            unfinished = target.with_name(UNFINISHED + target.name)
            shutil.copytree(path, unfinished) if path.is_dir() else shutil.copy2(path, unfinished)
            os.replace(unfinished, target)

    def newest(self) -> Path | None:
        """The newest checkpoint in the folder."""
        return next(reversed(checkpoints_in(self.folder)), None)


def checkpoints_in(folder: Path | str, kind: str = "step") -> list[Path]:
    """Whole checkpoints of a folder, oldest first."""
    return sorted(Path(folder).glob(f"{kind}-[0-9]*.ckpt"), key=step_of)


def step_of(path: Path) -> int:
    """Optimiser steps made when the checkpoint was written."""
    return int(path.stem.rpartition("-")[2])


def newest_checkpoint(folder: Path | str) -> Path | None:
    """The checkpoint a run goes on from, or None. One that cannot be read is passed over, and the log says so."""
    for path in reversed(checkpoints_in(folder)):
        if _readable(path):
            return path
        log.warning("%s cannot be read; the checkpoint before it is used", path)
    return None


def remove_later_than(folder: Path | str, step: int) -> None:
    """Remove checkpoints beyond `step`: a resumed run makes them again."""
    for path in [*checkpoints_in(folder), *checkpoints_in(folder, "segment")]:
        if step_of(path) > step:
            _remove(path)


def _readable(path: Path) -> bool:
    import torch

    if path.is_dir():  # a sharded checkpoint
        return is_whole(path)
    try:
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (
        RuntimeError,
        OSError,
        ValueError,
        EOFError,
        KeyError,
        UnpicklingError,
    ) as error:  # ways in which a torn file fails
        log.debug("%s: %s", path, error)
        return False
    return "state_dict" in content and "optimizer_states" in content


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_file():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
