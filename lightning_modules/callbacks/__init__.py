"""Callbacks of a fit: checkpoints, progress, what runs between steps, the micro-batch that fits, words about the rewards."""

from lightning_modules.callbacks.best_step import BestStep, EveryNSteps
from lightning_modules.callbacks.checkpoints import StepCheckpoints, newest_checkpoint
from lightning_modules.callbacks.find_batch_size import FindBatchSize
from lightning_modules.callbacks.progress import FitProgress
from lightning_modules.callbacks.reward_health import RewardHealth

__all__ = [
    "BestStep",
    "EveryNSteps",
    "FindBatchSize",
    "FitProgress",
    "RewardHealth",
    "StepCheckpoints",
    "newest_checkpoint",
]
