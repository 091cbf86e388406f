"""How both kinds of stage serve their items (pairs, or dialogues): settings of the `trainer` group, plan, loader, padding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.encoded_steps import MakeBatch, epoch_of_steps
from datamodules.row_lengths import Padding, RowLengths
from datamodules.steps import StepPlan
from datamodules.token_batching import Limit, cut, longest_first
from parallax.models.batch import StepBatch
from parallax.models.devices import image_workers
from parallax.settings.groups import Trainer

log = logging.getLogger(__name__)


class StepDataModule(pl.LightningDataModule):
    """A datamodule whose items are served as optimiser steps. A subclass says what the items are.

    Args:
        trainer: of the `trainer` group: batch_size (items per step over all processes), micro_batch_size,
            micro_batch_tokens, group_by_length, num_workers.
        seed: of the order.
        repeat: how often each item is listed per epoch.
    """

    items = "pairs"  # what they are called in logs

    def __init__(self, trainer: Trainer, *, seed: int, repeat: int) -> None:
        super().__init__()
        self.batch_size, self.micro_batch_size = trainer.batch_size, trainer.micro_batch_size
        self.micro_batch_tokens: int | str | None = trainer.micro_batch_tokens
        self.group_by_length, self.num_workers = trainer.group_by_length, image_workers(trainer.num_workers)
        self.seed, self.repeat = seed, repeat
        self.references: dict[str, int] | None = None  # pairs whose reference log-probs were scored or found
        self.padding: Padding | None = None  # of the first epoch, known once it is served
        self.portion = 0  # the one at hand, or to be built next
        self._policy: Any = None
        self._told_of: RowLengths | None = None

    def steps_of_portions(self) -> list[int]:
        """Optimiser steps of each portion, one after the other, that the items of one pass come in."""
        return [self.steps_per_epoch()]

    # -- what a subclass says --------------------------------------------------------------------------------------

    def row_lengths(self) -> RowLengths | None:
        """Tokens of every item; None as long as there are none."""
        raise NotImplementedError

    def _count(self) -> int:
        raise NotImplementedError

    def _served(self) -> MakeBatch:
        """What makes micro-batches. Raises RuntimeError, in a sentence, when it is too early to ask."""
        raise NotImplementedError

    # -- steps -----------------------------------------------------------------------------------------------------

    def plan(self, rank: int = 0, world_size: int = 1) -> StepPlan:
        """Which items meet in which step."""
        lengths = self.row_lengths()
        return StepPlan(
            self._count(),
            self.batch_size,
            self.micro_batch_size,
            seed=self.seed,
            repeat=self.repeat,
            rank=rank,
            world_size=world_size,
            lengths=lengths,
            micro_batch_tokens=self.tokens_per_pass() if lengths is not None else None,
            group_by_length=self.group_by_length and lengths is not None,
        )

    def tokens_per_pass(self) -> int | None:
        """`trainer.micro_batch_tokens` as a number: `auto` is what micro_batch_size of the longest items take."""
        lengths = self.row_lengths()
        if self.micro_batch_tokens != "auto":
            return int(self.micro_batch_tokens) if self.micro_batch_tokens is not None else None
        if lengths is None or not len(lengths):
            return None
        return self.micro_batch_size * lengths.rows * int(lengths.widths.max())

    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass over the items."""
        return -(-self._count() * self.repeat // self.batch_size)

    def epoch_loader(
        self, epoch: int = 0, first_step: int = 0, *, rank: int | None = None, world_size: int | None = None
    ) -> DataLoader[StepBatch]:
        """The steps of one pass from `first_step` on: a pure function of items, seed, epoch and step.

        Steps before `first_step` are not decoded. `rank` and `world_size` default to the attached trainer's.
        """
        make = self._served()
        if rank is None or world_size is None:
            rank, world_size = (
                (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
            )
        plan = self.plan(rank, world_size)
        self._tell_padding(plan, epoch)
        return epoch_of_steps(
            plan, make, epoch=epoch, first_step=first_step, num_workers=self.num_workers,
            pin_memory=self._policy.device.type == "cuda",
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """The first pass. Fits of several passes, or resumed ones, go through `epoch_loader`."""
        return self.epoch_loader()

    # -- forward passes outside steps ------------------------------------------------------------------------------

    def passes(self, places: Sequence[int], items: int | None = None) -> list[list[int]]:
        """Places in forward passes, rows of like length together, longest first. `items` asks for so many each."""
        lengths = self.row_lengths()
        assert lengths is not None, "there is nothing to put into passes yet"
        limit = Limit(items=items, rows=lengths.rows) if items is not None else self.plan().limit
        ordered = longest_first(places, lengths.widths)
        ends = iter(cut([int(lengths.widths[place]) for place in ordered], limit))
        result, start = [], 0
        for size in ends:
            result.append(ordered[start : start + size])
            start += size
        return result

    def _tell_padding(self, plan: StepPlan, epoch: int) -> None:
        """Say once for every set of items how much of the work is padding."""
        if plan.lengths is None or plan.lengths is self._told_of:
            return
        self._told_of, self.padding = plan.lengths, plan.padding(epoch)
        if self.padding is not None and plan.rank == 0:
            log.info(self.padding.line(self.items))
