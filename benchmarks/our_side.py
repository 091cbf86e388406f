"""What `benchmarks/train_step.py` times on our side: `DPOModule` on Lightning, with everything a run has around it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.llava_shaped import Row

RANK, BETA, LR = 64, 0.1, 5e-5  # of both sides


class Ours:
    """`DPOModule` on Lightning, fed by the loader that runs use."""

    def __init__(
        self,
        checkpoint: Path,
        rows: Sequence[Row],
        batch: int,
        dtype: str,
        layout: str = "auto",
        live: bool = False,
        cache: str = "auto",
    ) -> None:
        from datamodules.encoded_steps import PairBatches
        from datamodules.steps import StepPlan
        from lightning_modules.objectives import DPO, MultiNegative
        from parallax.models.loading import load_policy
        from parallax.records import PreferencePair, Response
        from parallax.records.images import FileImage
        from parallax.settings.groups import Lora, Model
        from parallax.settings.shipped import shipped

        self.batch, self.dtype, self.live = batch, dtype, live
        model = shipped(
            Model, path=str(checkpoint), family=None, image_pad=False, dtype=dtype, layout=layout, feature_cache=cache
        )
        self.policy = load_policy(model, shipped(Lora, r=RANK, alpha=None))
        pairs = [
            PreferencePair(
                sample_id=row.image.name, source="benchmark", prompt=row.prompt,
                image=FileImage(str(row.image.parent), row.image.name),
                chosen=Response(row.responses[0]), rejected=tuple(Response(text) for text in row.responses[1:]),
            )
            for row in rows
        ]  # fmt: skip
        names = [row.image.name for row in rows]
        self.make = PairBatches(pairs, names, self.policy.encoder, features=self.policy.features)
        self.plan = StepPlan(len(rows), batch, batch)
        self.objective = DPO(beta=BETA) if len(rows[0].responses) == 2 else MultiNegative(beta=BETA)
        self.reference_seconds = 0.0 if live else self._fill_reference(len(rows))

    def _fill_reference(self, count: int) -> float:
        """Seconds that the reference of one pair takes, once."""
        import torch

        began, totals = time.perf_counter(), []
        with torch.inference_mode(), self._autocast(), self.policy.reference():
            for start in range(0, count, self.batch):
                places = range(start, min(start + self.batch, count))
                totals.append(self.policy.score(self.make(places).scoring).total.float())
        self.make.reference = torch.cat(totals)
        return (time.perf_counter() - began) / count

    def _autocast(self) -> Any:
        import torch

        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16")

    def steps(self, count: int, lr: float = LR) -> tuple[list[float], list[float]]:
        """Seconds and losses of `count` steps; the seconds of the first, which waits for start-up, are left out."""
        import pytorch_lightning as pl

        from datamodules.encoded_steps import epoch_of_steps
        from lightning_modules.dpo import DPOModule
        from lightning_modules.step_stream import StepStream
        from lightning_modules.trainer import make_trainer
        from parallax.settings.groups import Optim, Trainer
        from parallax.settings.shipped import shipped

        module = DPOModule(
            self.policy, self.objective, shipped(Optim, lr=lr, scheduler="constant", weight_decay=0.0, warmup_ratio=0.0),
            reference_mode="live" if self.live else "cached", total_steps=count,
        )  # fmt: skip
        ends: list[float] = []
        losses: list[float] = []

        class Watch(pl.Callback):
            def on_train_batch_end(self, *_: Any) -> None:
                ends.append(time.perf_counter())
                losses.append(module.last_metrics["train/loss"])

        trainer = make_trainer(shipped(Trainer, accelerator="cpu"), folder=tempfile.gettempdir(), callbacks=[Watch()],
                               max_steps=count, weights=self.policy.precision)  # fmt: skip
        stream = StepStream(
            lambda epoch, first: epoch_of_steps(self.plan, self.make, epoch=epoch, first_step=first),
            self.plan.steps_per_epoch, start=0, stop=count,
        )  # fmt: skip
        trainer.fit(module, train_dataloaders=stream)
        return [b - a for a, b in pairwise(ends)], losses
