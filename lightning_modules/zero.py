"""Training with DeepSpeed's ZeRO-3 under Lightning: weights, gradients and optimiser states divided over GPUs.

DeepSpeed clips gradients, keeps master weights in float32 and writes checkpoints itself; these go on with the same number of
processes only. What is trained lies beside them in our own form, and is gathered once more when training ends, so that the stage
ends with a plain adapter. Nothing here imports DeepSpeed before a trainer is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from lightning_modules.checkpoint_files import META, OTHER_OPTIMISER
from parallax.models import processes


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's `DeepSpeedStrategy` for a step of several micro-batches, with checkpoints that say what is in them.

    Args:
        timeout: longest wait for another process.
        clip: largest gradient norm, or None.
        settings: stage (2 | 3), offload_optimizer and offload_parameters (true | false), config (further keys of DeepSpeed's
            own configuration, or None; those of a section are added to the section).

    Raises:
        ModuleNotFoundError: DeepSpeed is not installed.
    """

    def __init__(self, *, timeout: timedelta, clip: float | None, settings: Mapping[str, Any] | None = None) -> None:
        given = settings or {}
        super().__init__(
            stage=int(given.get("stage", 3)),
            offload_optimizer=bool(given.get("offload_optimizer")),
            offload_parameters=bool(given.get("offload_parameters")),
            logging_batch_size_per_gpu=1,  # of no use: steps bring their own micro-batches
            exclude_frozen_parameters=True,
            timeout=timeout,
        )
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = clip or 0.0
        self.config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW steps moments in host memory, too
        _put_into(self.config, given.get("config") or {})

    def before_backward(self, *, last: bool) -> None:
        """Say whether this is the step's last micro-batch, after which gradients are complete.

        DeepSpeed takes each forward pass of its engine for a micro-batch, and a whole step is one pass here. Unless it is told
        that another backward pass begins, ZeRO-3 puts its gradients in the place of those before, in place of adding them.
        """
        self.deepspeed_engine.set_gradient_accumulation_boundary(last)
        tell = getattr(self.deepspeed_engine.optimizer, "clear_backward_seen_flag", None)  # newer versions only
        if tell is not None:
            tell()

    def grad_norm(self) -> float:
        """Norm of all gradients of the step that was just made, before clipping."""
        norm = self.deepspeed_engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def trained_state(self) -> dict[str, Tensor]:
        """What is trained, whole, on the CPU of the first process; empty on the others. Called by all at once."""
        assert self.lightning_module is not None
        state = {}
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad:
                full = gathered_copy(parameter)
                if processes.is_first():
                    state[name] = full
        return state

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """See `trained_state`."""
        return self.trained_state()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """DeepSpeed writes it."""
        return {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A folder: DeepSpeed's files, and ours with what is trained."""
        folder = Path(processes.from_first(str(filepath)))
        rest = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "optimizer_states")}
        self.deepspeed_engine.save_checkpoint(
            str(folder), client_state={}, tag="checkpoint", exclude_frozen_parameters=self.exclude_frozen_parameters
        )
        if processes.is_first():
            ours = {**rest, "state_dict": checkpoint["state_dict"], "optimizer_states": [], "processes": 0}
            torch.save({**ours, OTHER_OPTIMISER: self.world_size}, folder / META)
        processes.wait()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Go on from a checkpoint that as many processes wrote with DeepSpeed. Raises ValueError for any other."""
        path = Path(checkpoint_path)
        ours: dict[str, Any] = {}
        if (path / META).is_file():
            ours = torch.load(path / META, map_location="cpu", weights_only=True)
        if (wrote := ours.get(OTHER_OPTIMISER)) != self.world_size:
            by = f"by {wrote} processes with trainer=deepspeed" if wrote else "with another trainer.strategy"
            raise ValueError(
                f"the checkpoint {path} was written {by}, and DeepSpeed goes on from its own ones with as many processes only "
                f"({self.world_size} here). Use the trainer that wrote it"
            )
        with without_pickled_objects():
            self.deepspeed_engine.load_checkpoint(
                str(path), tag="checkpoint", load_lr_scheduler_states=False, load_module_strict=False
            )
        return ours

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Done by `load_checkpoint`."""


@contextmanager
def without_pickled_objects() -> Iterator[None]:
    """Inside, `torch.load` makes tensors, plain containers and three kinds of number of DeepSpeed's, whatever it is told."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    load = torch.load

    def safely(*args: Any, **more: Any) -> Any:
        return load(*args, **{**more, "weights_only": True})

    torch.load = safely
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum]):
            yield
    finally:
        torch.load = load


def _put_into(config: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the keys of `more`, in sections too: what a section has already and `more` does not name stays."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _put_into(config[key], value)
        else:
            config[key] = value


def gathered_copy(parameter: Any) -> Tensor:
    """A parameter's value on the CPU, put together from all processes where DeepSpeed has divided it."""
    if not hasattr(parameter, "ds_id"):
        return parameter.detach().cpu().clone()  # type: ignore[no-any-return]
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()  # type: ignore[no-any-return]
