"""Callbacks of a fit: checkpoints, progress, what runs between steps, and words about how the rewards are doing."""

from lightning_modules.callbacks.checkpoints import StepCheckpoints, newest_checkpoint
from lightning_modules.callbacks.every_n_steps import EveryNSteps
from lightning_modules.callbacks.progress import FitProgress
from lightning_modules.callbacks.reward_health import RewardHealth

__all__ = ["EveryNSteps", "FitProgress", "RewardHealth", "StepCheckpoints", "newest_checkpoint"]
