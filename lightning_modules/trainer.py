"""From our `trainer` group to a Lightning Trainer: keys translated, strategies made, everything we do ourselves turned off."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.checkpoint_files import CheckpointFiles
from lightning_modules.fsdp1 import FSDP1Precision, FSDP1Strategy
from parallax.models.devices import accelerator_for
from parallax.records.interruption import tell_when_asked
from parallax.settings.groups import Trainer

PATIENCE = timedelta(days=2)  # longest wait for another process, which may be writing answers; one that dies ends all


def make_trainer(
    settings: Trainer,
    *,
    folder: Path | str,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
    max_steps: int = -1,
    weights: str = "float32",
    profiler: str | None = None,
) -> pl.Trainer:
    """A Lightning Trainer for our modules.

    Args:
        settings: the `trainer` group.
        folder: what Lightning itself writes goes there.
        max_steps: optimiser steps; -1 for a trainer that only predicts.
        weights: precision of the model's weights, for precision=auto.
        profiler: simple | advanced | pytorch, or None.

    Raises:
        ValueError: float16 on a CPU.
    """
    quiet_lightning()
    accelerator = accelerator_for(settings.accelerator)
    strategy = strategy_for(settings, accelerator)
    precision: Any = precision_for(settings.precision, weights, accelerator)
    if isinstance(strategy, FSDP1Strategy):
        precision = FSDP1Precision(precision, "cuda" if accelerator == "gpu" else "cpu")
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy,
        precision=precision if not isinstance(precision, FSDP1Precision) else None,
        logger=list(loggers) or False,
        callbacks=list(callbacks),
        max_epochs=-1,  # the number of steps decides
        max_steps=max_steps,
        log_every_n_steps=settings.log_every_n_steps,
        deterministic=settings.deterministic or None,
        default_root_dir=str(folder),
        profiler=profiler,
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        plugins=[CheckpointFiles(), *([precision] if isinstance(precision, FSDP1Precision) else [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # our loaders know their process
        num_sanity_val_steps=0,
        inference_mode=False,  # tensors of an inference-mode predict could not be trained on later
        max_time=settings.max_time,
        detect_anomaly=settings.detect_anomaly,
    )
    _leave_signals_to_us(trainer)
    return trainer


def _leave_signals_to_us(trainer: pl.Trainer) -> None:
    """Lightning's own handlers end a fit before its last step is saved, and requeue Slurm jobs; `interruption` saves first.

    Processes that Lightning has started get the signal passed on.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    kill = getattr(getattr(trainer.strategy, "launcher", None), "kill", None)
    if kill is not None:
        tell_when_asked(kill)


def joined_processes(settings: Trainer, folder: Path | str = ".") -> pl.Trainer | None:
    """Have the processes of this run meet, starting them where nobody has; a trainer to build pairs on, or None for a lone one.

    Building needs the whole model in every process, whatever strategy training uses, so the trainer's is a plain one.
    """
    devices, nodes = settings.devices, settings.num_nodes
    started = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if devices == nodes == started == 1:
        return None
    trainer = make_trainer(replace(settings, strategy="auto"), folder=folder)
    if trainer.world_size < started:
        raise ValueError(
            f"this is one of {started} processes, and trainer.devices={devices} × trainer.num_nodes={nodes} makes "
            f"{trainer.world_size}: they would each do the whole run, in one folder. Set both as torchrun was told "
            "(--nproc_per_node, --nnodes)"
        )
    if trainer.world_size == 1:
        return None
    strategy: Any = trainer.strategy
    if strategy.launcher is not None:
        strategy.launcher.launch(lambda: None, trainer=trainer)
    strategy.setup_environment()
    os.environ.setdefault(
        "LOCAL_WORLD_SIZE", str(trainer.num_devices)
    )  # torchrun says it, Lightning's launcher does not
    return trainer


def precision_for(name: str, weights: str, accelerator: str) -> str:
    """`auto` computes in the weights' precision, and keeps what is trained in float32.

    Half-precision weights get autocast in the same type; float32 weights stay in float32 everywhere.
    """
    by_weights = {"bfloat16": "bf16-mixed", "float16": "16-mixed", "float64": "64-true"}
    chosen = by_weights.get(weights, "32-true") if name == "auto" else name
    if accelerator == "cpu" and chosen in ("16-mixed", "16-true"):
        what = f"trainer.precision={name}" if name != "auto" else f"model.dtype={weights}"
        raise ValueError(
            f"{what} trains in float16, which needs a GPU, and this runs on a CPU; use model.dtype=auto trainer.precision=auto"
        )
    return chosen


def strategy_for(settings: Trainer, accelerator: str) -> Any:
    """Lightning's strategy object for our short names."""
    name: str = settings.strategy
    if name == "auto":
        name = "ddp" if settings.devices != 1 or settings.num_nodes > 1 else "auto"
    if name == "ddp":
        from lightning_modules.fsdp1 import SummedStrategy

        return SummedStrategy(timeout=PATIENCE)
    files = settings.checkpoint.sharded
    if name == "fsdp":
        return FSDP1Strategy(sharded_files=files, timeout=PATIENCE, settings=settings.fsdp)
    if name == "fsdp2":
        from lightning_modules.fsdp1 import FSDP2Strategy

        return FSDP2Strategy(sharded_files=files, timeout=PATIENCE)
    if name == "deepspeed":
        from lightning_modules.zero import ZeroStrategy

        clip = settings.gradient_clip_val
        return ZeroStrategy(sharded_files=files, timeout=PATIENCE, clip=clip, settings=settings.deepspeed)
    return name


HARMLESS = (
    r".*does not have many workers.*",  # loaders here decide their own number of workers
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # meant so
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",  # the loader is told its first step
    r".*GPU available but not used.*",
    r".*Starting from v1\.9\.0, `tensorboardX` has been removed.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*Consider setting `persistent_workers=True`.*",
    r".*no `val_dataloader`.*|.*no `validation_step`.*|.*You defined a `validation_step`.*",
    r".*is an instance of `nn\.Module` and is already saved during checkpointing.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*Trying to infer the `batch_size` from an ambiguous collection.*",
    r".*`training_step` returned `None`.*",
    r".*`is_gradient_checkpointing` is deprecated.*",  # asked by peft of transformers
    r".*Couldn't infer the batch indices fetched from your dataloader.*",  # lists of requests have none
    r".*Paged optimizers are not supported on CPU.*",
)


def quiet_lightning() -> None:
    """Hide banners and tips. Safe to call often."""
    for pattern in HARMLESS:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
