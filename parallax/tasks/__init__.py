"""Tasks: what `python run.py task=…` can do, one module each with a function `run(cfg)`. Imported when needed, not before."""

import gc
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from parallax.records.temporary import remove_left_behind
from parallax.reports.metric_names import lookup


def run_task(cfg: DictConfig) -> Any:
    """Run the task the configuration names, in the run folder Hydra made or in that of the run it goes on with.

    Returns what the task returns: results, a number or nothing.
    """
    from parallax.tasks.first_minute import first_minute
    from parallax.tasks.run_folder import in_run_folder

    named = cfg.paths.output_dir is not None
    if not named and HydraConfig.initialized():
        with open_dict(cfg):
            cfg.paths.output_dir = HydraConfig.get().runtime.output_dir
    remove_left_behind()
    first_minute(cfg)
    gc.disable()  # nothing of what is imported is ever garbage, and looking for it takes a tenth of the time
    try:
        task = import_module(f"parallax.tasks.{cfg.task.name}").run
    finally:
        gc.enable()
    return (
        in_run_folder(cfg, task, Path(cfg.paths.output_dir), named=named)
        if cfg.paths.output_dir is not None
        else task(cfg)
    )


def number_of(value: object, cfg: DictConfig) -> float:
    """The number a sweeper looks at: what a task returned, or the entry `optimized_metric` of its results; nan without one."""
    if isinstance(value, Mapping) and cfg.optimized_metric is not None:
        value = lookup(value, str(cfg.optimized_metric))
    return float(value) if isinstance(value, int | float) else math.nan
