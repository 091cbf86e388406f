"""A study: several recipes ("arms") over several seeds, one table with intervals.

Each (arm, seed) is an ordinary `align` run in a folder of its own. The folder of a study is not named by date: the same
command goes on where it stopped, and a run whose configuration has not changed is not run again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from datamodules.preference import NoPairs
from parallax.records.plain_text import say
from parallax.reports.run_log import run_log
from parallax.reports.study import write_study
from parallax.settings.command_line import compose_checked
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Task
from parallax.tasks import align
from parallax.tasks.recipe import run_key
from parallax.tasks.run_folder import in_run_folder
from parallax.tasks.run_state import clear_other_run, is_finished

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    is_run: ClassVar[bool] = True


def run(cfg: DictConfig) -> float:
    """Run all arms of `study.arms` for all `study.seeds`; returns the first arm's relative effect on `study.metric`."""
    study: dict[str, Any] = OmegaConf.to_container(cfg.study, resolve=True)  # type: ignore[assignment]
    if not study.get("arms"):
        raise ConfigError("task=study has nothing to compare: choose a study, such as study=seva_evidence")
    folder = Path(study["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    planned = {
        (arm, seed): _compose(arm, words, seed, folder)  # all arms are checked before the first one runs
        for arm, words in study["arms"].items()
        for seed in study["seeds"]
    }
    failures: dict[str, list[str]] = {}
    for number, ((arm, seed), run_cfg) in enumerate(planned.items(), start=1):
        where = f"{number} of {len(planned)}: {arm}, seed {seed}"
        target = Path(run_cfg.paths.output_dir)
        config: dict[str, Any] = OmegaConf.to_container(run_cfg, resolve=True)  # type: ignore[assignment]
        key = run_key(config)
        if is_finished(target, key):
            say(f"study run {where}: done before, kept")
            continue
        say(f"study run {where}")
        clear_other_run(target, key)  # its recipe has changed since
        try:
            in_run_folder(run_cfg, align.run, target)
        except Exception as error:  # one failing arm must not cost the others
            log.warning("study run %s came to nothing: %s", where, error, exc_info=not isinstance(error, NoPairs))
            failures.setdefault(arm, []).append(str(error).partition(";")[0].partition(". ")[0])
    with run_log(folder):
        for arm, told in failures.items():
            log.warning("%d runs of %s came to nothing and are left out: %s", len(told), arm, told[-1])
        runs = {arm: _folders(folder, arm, study["seeds"]) for arm in study["arms"]}
        summary = write_study(folder, study, runs, failures)
    effect = summary["arms"][next(iter(study["arms"]))]["effects"].get(study["metric"])
    return float(effect["relative"]) if effect else float("nan")


def _compose(arm: str, words: Sequence[str], seed: int, folder: Path) -> DictConfig:
    """The configuration of one run: what was typed, then the arm's own words, then the seed."""
    from hydra.core.hydra_config import HydraConfig

    typed = [word for word in HydraConfig.get().overrides.task if not word.lstrip("+").startswith(("task=", "task."))]
    own = [*words, f"seed={seed}", "task=align", f"paths.output_dir={_folder(folder, arm, seed)}"]
    try:
        return compose_checked([*typed, *own])
    except ConfigError as error:
        raise ConfigError(f"arm {arm} of the study: {error}") from error


def _folder(folder: Path, arm: str, seed: int) -> Path:
    return folder / arm / f"seed_{seed}"


def _folders(folder: Path, arm: str, seeds: Sequence[int]) -> list[Path]:
    """The finished runs of an arm."""
    every = [_folder(folder, arm, seed) for seed in seeds]
    return [path for path in every if (path / "results.json").is_file()]
