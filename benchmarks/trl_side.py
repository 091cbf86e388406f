"""What `benchmarks/train_step.py` times on the other side: TRL's `DPOTrainer` on the same rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.llava_shaped import Row
from benchmarks.our_side import BETA, LR, RANK


class Trl:
    """TRL's `DPOTrainer`, as its documentation uses it on vision data."""

    def __init__(self, checkpoint: Path, rows: Sequence[Row], batch: int, dtype: str) -> None:
        import torch
        from datasets import Dataset, Image
        from peft import LoraConfig
        from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
        from trl import DPOConfig, DPOTrainer

        from parallax.models.lora import language_targets

        def said(role: str, text: str) -> list[dict[str, str]]:
            return [{"role": role, "content": text}]

        data = Dataset.from_list(
            [
                {
                    "images": [str(row.image)],
                    "prompt": said("user", row.prompt),
                    "chosen": said("assistant", row.responses[0]),
                    "rejected": said("assistant", row.responses[1]),
                }
                for row in rows
            ]
        )
        from datasets import List

        data = data.cast_column("images", List(Image()))
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=getattr(torch, dtype.split("+")[0]))
        lora = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=language_targets(model), task_type="CAUSAL_LM"
        )
        self.folder = tempfile.mkdtemp(prefix="trl_")
        self.settings: dict[str, Any] = dict(  # noqa: C408
            output_dir=self.folder, per_device_train_batch_size=batch, learning_rate=LR, lr_scheduler_type="constant",
            beta=BETA, max_length=None, gradient_checkpointing=False, use_cpu=True, bf16=dtype != "float32",
            logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, max_grad_norm=1.0, weight_decay=0.0,
            dataloader_num_workers=0, seed=0,
        )  # fmt: skip
        self.trainer = DPOTrainer(
            model=model, args=DPOConfig(**self.settings), train_dataset=data,
            processing_class=AutoProcessor.from_pretrained(checkpoint), peft_config=lora,
        )  # fmt: skip
        watch = self

        class Watch(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                watch.ends.append(time.perf_counter())

            def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
                if "loss" in logs:
                    watch.losses.append(float(logs["loss"]))

        self.ends: list[float] = []
        self.losses: list[float] = []
        self.trainer.add_callback(Watch())

    def steps(self, count: int, lr: float = LR) -> tuple[list[float], list[float]]:
        """As `Ours.steps`."""
        self.ends.clear()
        self.losses.clear()
        self.trainer.args.max_steps, self.trainer.args.learning_rate = count, lr
        self.trainer.optimizer = self.trainer.lr_scheduler = None
        self.trainer.train()
        return [b - a for a, b in pairwise(self.ends)], list(self.losses)
