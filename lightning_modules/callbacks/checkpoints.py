"""Checkpoints that are whole or absent, few, and named so that a shell takes them without quoting.

`checkpoints/step-000120.ckpt` holds what is trained, the optimiser, the schedule and the step. The newest `keep` stay. A
`segment-000100.ckpt` holds the state in which a set of pairs came into use: to go on from step 120, the pairs of that
moment are needed, and the policy that made them. Beside each lies `<name>.xxh128` with its size and digest, by which one that
was damaged later is known (XXH3, since processes wait for it: some 9 GB/s, where SHA-256 makes 0.5 to 1.2).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import xxhash
from pytorch_lightning.callbacks import Checkpoint

from lightning_modules.checkpoint_files import is_whole
from parallax.records.atomic import atomic_write_text, flush
from parallax.records.interruption import leave_if_asked, stop_requested

log = logging.getLogger(__name__)

UNFINISHED = ".tmp-"  # how names of checkpoints that are being written begin
RECORD = ".xxh128"  # added to a checkpoint's name: size in bytes and digest


class StepCheckpoints(Checkpoint):
    """Saves every so many optimiser steps, at the end, and when the run is asked to stop; keeps the newest.

    A checkpoint of step s is written when step s + 1 begins, after all loggers have been told of step s.

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

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save when the step that has just been made is due, or when this is the last moment to do so."""
        step, leaving = trainer.global_step, stop_requested()
        if trainer.world_size > 1:  # one process that was asked is enough, and all save together
            leaving = trainer.strategy.reduce_boolean_decision(leaving, all=False)
        if step and (leaving or (self.every_n_steps and step % self.every_n_steps == 0)):
            self.save(trainer)
        if leaving:
            leave_if_asked(f"after step {step}", everywhere=True)

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
                for logger in trainer.loggers:
                    logger.save()  # the curves up to here are on disk before the checkpoint is
                _finish(unfinished, path)
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
            _finish(unfinished, target)

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
    """The checkpoint a run goes on from, or None. One that is damaged is passed over, and the log says so."""
    for path in reversed(checkpoints_in(folder)):
        fault = fault_of(path)
        if fault is None:
            return path
        log.warning("%s cannot be read (%s); the checkpoint before it is used", path, fault)
    return None


def remove_later_than(folder: Path | str, step: int) -> None:
    """Remove checkpoints beyond `step`, which a resumed run makes again, and what a killed writer left behind."""
    for path in [*checkpoints_in(folder), *checkpoints_in(folder, "segment")]:
        if step_of(path) > step:
            _remove(path)
    for left in Path(folder).glob(f"{UNFINISHED}*"):
        _remove(left)


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint: not the bytes that were written, or nothing that can be loaded. None if it is whole."""
    import torch

    record = path.with_name(path.name + RECORD)
    if record.is_file() and record.read_text().strip() != _facts(path):
        return "its bytes are not those that were written"
    try:
        if path.is_dir():  # a sharded checkpoint
            return None if is_whole(path) else "parts of it are missing"
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (
        RuntimeError,
        OSError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        UnpicklingError,
    ) as error:  # ways in which a torn file fails
        log.debug("%s: %s", path, error)
        return "it is torn or no checkpoint"
    whole = isinstance(content, dict) and "state_dict" in content and "optimizer_states" in content
    return None if whole else "it holds no weights or no optimiser"


def _finish(unfinished: Path, path: Path) -> None:
    """On disk, recorded, and only then under its name."""
    for part in [*(unfinished.rglob("*") if unfinished.is_dir() else ()), unfinished]:
        flush(part)
    atomic_write_text(path.with_name(path.name + RECORD), _facts(unfinished) + "\n")
    os.replace(unfinished, path)
    flush(path.parent)


def _facts(path: Path) -> str:
    """Size in bytes and XXH3-128; of a folder, those of all its files."""
    files = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    facts = [f"{file.stat().st_size} {_digest(file)}" for file in files]
    return facts[0] if not path.is_dir() else " ".join(facts)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]  # it is one in all but name


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    path.with_name(path.name + RECORD).unlink(missing_ok=True)
