"""DeepSpeed on a CPU over gloo. DeepSpeed computes there; Lightning's strategy for it refuses, and numbers its GPUs.

What is lifted here is lifted in the test's own processes only: the refusal, the comparison of GPU numbers with process numbers,
and the device without a number that a CPU is.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
)


def let_deepspeed_compute_here() -> None:
    """Called in each process before a trainer is made."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    import pytorch_lightning.strategies.deepspeed as theirs
    from pytorch_lightning.strategies import DDPStrategy

    from lightning_modules.zero import ZeroStrategy

    def setup_environment(self: Any) -> None:
        DDPStrategy.setup_environment(self)

    changed: Any = ZeroStrategy
    changed.setup_environment = setup_environment
    changed.root_device = property(lambda self: torch.device("cpu", 0))
    theirs._validate_device_index_selection = lambda devices: None
