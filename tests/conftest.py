"""Before any test: no network, no screen, one thread, caches of its own. Heavy imports stay in the tests that need them."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lightning_modules.light_imports import light_imports
from tests.faults import injected, pytest_runtest_makereport

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["compose_config", "injected", "pytest_runtest_makereport"]

ROOT = Path(__file__).resolve().parents[1]

CACHE = tempfile.mkdtemp(prefix="parallax-test-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MPLBACKEND": "Agg",
        "TOKENIZERS_PARALLELISM": "false",
        "PARALLAX_ROOT": str(ROOT),
        "PARALLAX_CACHE": CACHE,
        "COLUMNS": "120",
    }
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_TAGS"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot do, with the reason."""
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="needs a Chromium, and none is on the path"))


light_imports()


@pytest.fixture
def compose_config() -> Iterator[Callable[..., "DictConfig"]]:
    """`compose_config("loss=stic", "seed=1")`: the configuration as Hydra composes it, unchecked."""
    from hydra import compose, initialize_config_dir

    from parallax.settings.bounded_omegaconf import bounded_omegaconf

    bounded_omegaconf()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield lambda *overrides: compose("config", overrides=list(overrides))
