"""Tasks: what `python run.py task=…` can do, one module each with a function `run(cfg)`. Imported when needed, not before."""

import math
from collections.abc import Mapping
from importlib import import_module

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict


def run_task(cfg: DictConfig) -> float:
    """Run the task the configuration names, in the run folder Hydra made.

    Returns the number a sweeper looks at: what the task returns, or the entry `optimized_metric` of the results it returns;
    nan when there is none.
    """
    if cfg.paths.output_dir is None and HydraConfig.initialized():
        with open_dict(cfg):
            cfg.paths.output_dir = HydraConfig.get().runtime.output_dir
    value = import_module(f"parallax.tasks.{cfg.task.name}").run(cfg)
    if isinstance(value, Mapping) and cfg.optimized_metric is not None:
        from parallax.reports.results import lookup

        value = lookup(value, str(cfg.optimized_metric))
    return float(value) if isinstance(value, int | float) else math.nan
