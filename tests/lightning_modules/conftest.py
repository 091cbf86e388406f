"""A real tiny LLaVA with LoRA, loaded anew for every test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallax.models.policy import Policy
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA of toy size on disk."""
    return make_tiny_checkpoint("llava", tmp_path_factory.mktemp("llava"), seed=3)


@pytest.fixture
def new_policy(checkpoint: Path) -> Callable[..., Policy]:
    """Loads the same policy anew; `lora` may be changed, None trains in full."""
    standard = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "language", "enabled": True}

    def make(lora: dict[str, Any] | None = standard, *, dtype: str = "float32", seed: int = 0) -> Policy:
        return load_policy({"name": "tiny", "path": str(checkpoint), "dtype": dtype}, lora, seed=seed)

    return make
