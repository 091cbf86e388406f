"""The program: `python run.py method=seva aug.noise_steps=500`. Composes the configuration, checks it, runs the task."""

import os
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from parallax.settings.command_line import complain, prepare
from parallax.settings.errors import ConfigError
from parallax.tasks.error_messages import sentence_of, told_notes
from parallax.tasks.multirun import run_job

ROOT = Path(__file__).resolve().parent


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """One run, or one job of a multirun. Returns the metric that a sweeper optimises; nan (to Optuna None) without one."""
    return run_job(cfg)


if __name__ == "__main__":
    os.environ.setdefault("PARALLAX_ROOT", str(ROOT))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # mistakes come to us, and we say them in words
    try:
        sys.argv[1:] = prepare(sys.argv[1:], ROOT / "conf")
        main()
    except (ConfigError, HydraException) as error:
        complain(error)
        sys.exit(2)
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        print("\n".join([f"The run stopped: {sentence.rstrip('.')}.", *told_notes(error)]), file=sys.stderr)
        sys.exit(1)
