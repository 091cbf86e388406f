"""`trainer.find_batch_size=true`: before the first step, find the largest micro-batch that fits, by trying.

A trial is two forward and backward passes over the longest rows, as in a step with accumulation; room for the optimiser's
moments is held meanwhile. On a GPU a size fits if it does not run out of memory: sizes are doubled or halved from the
planner's guess, then the gap is halved. On a CPU running out would end the process, so sizes are doubled from 1 while the
growth measured so far says that twice as much still leaves a fifth of what is free, and while throughput rises.

Nothing of the fit changes: weights, gradients, random numbers, modes and the optimiser are as they were.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules.tuning import TuningModule
from parallax.models.batch import PairBatch
from parallax.models.memory.advice import is_out_of_memory
from parallax.models.memory.device_memory import device_memory, peak_resident, resident

log = logging.getLogger(__name__)

SPARE = 0.8  # share of the free memory that a CPU's next size may be expected to use
FASTER = 1.05  # a larger size has to bring so much more throughput on a CPU


@dataclass(frozen=True, slots=True)
class Trial:
    """One size that was tried. `growth` is in bytes beyond what was held before."""

    pairs: int
    fits: bool
    seconds: float
    growth: int


class FindBatchSize(pl.Callback):
    """Finds a micro-batch size and hands it to `use`, once, before the first step.

    Args:
        make: pairs → the longest rows as one micro-batch.
        guess: pairs that the planner expects to fit.
        most: pairs of an optimiser step that one process has; the search never goes beyond.
        moments: bytes that the optimiser will take from the first step on.
        use: is told the found size.
    """

    def __init__(
        self, make: Callable[[int], PairBatch], *, guess: int, most: int, moments: int, use: Callable[[int], None]
    ) -> None:
        self.make, self.most, self.moments, self.use = make, max(1, most), moments, use
        self.guess = max(1, min(guess, self.most))
        self.trials: list[Trial] = []
        self.found: int | None = None
        self.reason = ""
        self._before = 0  # resident bytes before the first trial

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search, agree with the other processes, and say what was found."""
        if self.found is not None:
            return
        assert isinstance(pl_module, TuningModule)
        with _left_as_it_was(pl_module), trainer.precision_plugin.forward_context():
            pl_module.on_train_start()
            on_gpu = pl_module.device.type == "cuda"
            found = self._by_failing(pl_module) if on_gpu else self._by_growth(pl_module)
        if trainer.world_size > 1:
            smallest = torch.tensor(found, device=pl_module.device)
            torch.distributed.all_reduce(smallest, op=torch.distributed.ReduceOp.MIN)
            found = int(smallest)
        self.found = found
        if trainer.global_rank == 0:
            tried = ", ".join(f"{t.pairs}: {_said(t)}" for t in self.trials)
            log.info("micro-batch: %d pairs at a time (%s). Tried %s", found, self.reason, tried)
        self.use(found)

    def as_data(self) -> dict[str, Any]:
        """For fit.json."""
        return {"pairs": self.found, "reason": self.reason, "tried": [asdict(trial) for trial in self.trials]}

    # -- searching -------------------------------------------------------------------------------------------------

    def _by_failing(self, module: TuningModule) -> int:
        fits = lambda size: self._try(module, size).fits  # noqa: E731
        good, bad = search(fits, self.guess, self.most)
        if good == 0:
            raise torch.OutOfMemoryError("out of memory: not even one pair at a time fits")
        self.reason = f"all of the step's pairs fit, {self.most}" if bad is None else f"{bad} did not fit"
        return good

    def _by_growth(self, module: TuningModule) -> int:
        self._try(module, 1)  # the first pass loads and compiles things
        self.trials.clear()
        best, size = self._try(module, 1), 1
        if not best.fits:
            raise MemoryError("not even one pair at a time fits")
        self.reason = f"all of the step's pairs fit, {self.most}"
        while size < self.most:
            following = min(2 * size, self.most)
            needed = self.trials[-1].growth * following // size + self.moments
            free = device_memory("cpu").free
            if needed > SPARE * free:
                self.reason = (
                    f"{following} would need about {needed / 1e9:.2g} GB of the {free / 1e9:.2g} GB that are free"
                )
                break
            trial = self._try(module, following)
            if not trial.fits:
                self.reason = f"{following} did not fit"
                break
            if trial.pairs / trial.seconds < FASTER * best.pairs / best.seconds:
                self.reason = f"{following} would fit, and are not faster"
                break
            best, size = trial, following
        return best.pairs

    def _try(self, module: TuningModule, size: int) -> Trial:
        batch = self.make(size).to(module.device)
        self._before = self._before or resident()
        held = None
        try:
            if module.device.type == "cuda":
                held = torch.empty(self.moments, dtype=torch.uint8, device=module.device)
            began = time.perf_counter()
            peak = peak_resident(lambda: _two_passes(module, batch)) if held is None else _two_passes(module, batch)
            trial = Trial(size, True, time.perf_counter() - began, max(0, peak - self._before))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            error.__traceback__ = None  # its frames hold the tensors that were too many
            trial = Trial(size, False, 0.0, 0)
        del held
        for parameter in module.trained():
            parameter.grad = None
        gc.collect()
        if module.device.type == "cuda":
            torch.cuda.empty_cache()
        self.trials.append(trial)
        return trial


def search(fits: Callable[[int], bool], guess: int, most: int) -> tuple[int, int | None]:
    """The largest size that fits, to an eighth, and the smallest that was seen not to; 0 if none does.

    `fits` is asked for `guess` first, then for twice or half as many, then between. Sizes are 1 to `most`.
    """
    good, bad = 0, None
    size = guess
    while bad is None or good == 0:
        if fits(size):
            good = size
            if size == most:
                return good, None
            if bad is not None:
                break
            size = min(2 * size, most)
        else:
            bad = size
            if size == 1:
                return 0, 1
            if good:
                break
            size //= 2
    assert bad is not None
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good, bad


def _two_passes(module: TuningModule, batch: PairBatch) -> int:
    """Forward and backward twice, so that the second pass finds gradients in place. Returns 0."""
    for _ in range(2):
        loss, _ = module.losses(batch)
        loss.sum().backward()
    if module.device.type == "cuda":
        torch.cuda.synchronize()
    return 0


@contextmanager
def _left_as_it_was(module: TuningModule) -> Any:
    """Modes, dropout, checkpointing, gradients and random numbers are put back."""
    modes = {part: part.training for part in module.network.modules()}
    gradients = {parameter: parameter.grad for parameter in module.trained()}
    for parameter in gradients:
        parameter.grad = None
    devices = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        if module.activation_checkpointing:
            module.policy.activation_checkpointing(False)  # switched on again when training starts
        for part, training in modes.items():
            part.training = training


def _said(trial: Trial) -> str:
    if not trial.fits:
        return "does not fit"
    return f"{2 * trial.pairs / trial.seconds:.3g} pairs/s"
