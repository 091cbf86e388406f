"""The program: `python run.py …` in a clone, `parallax …` once installed, and in Python `run([...])` and `compose([...])`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from parallax import __version__
from parallax.records.plain_text import say
from parallax.settings.check import check
from parallax.settings.command_line import complain, compose_checked, prepare
from parallax.settings.errors import ConfigError
from parallax.settings.extras import missing
from parallax.settings.overrides import CONFIG, VERSION_BASE, hydra_reads_so, loader
from parallax.settings.places import CONF, set_environment
from parallax.tasks import run_task
from parallax.tasks.error_messages import sentence_of, told_notes
from parallax.tasks.first_minute import leave_out_unused
from parallax.tasks.multirun import run_job
from parallax.tasks.naming import is_multirun
from parallax.tasks.run_folder import took_place

_own_process = False  # whether this process is there for the command alone
_failed: list[Exception] = []  # of the run under way: Hydra would announce it with words of its own


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say; those of the command line by default. Returns the exit status.

    0: done; 1: the run stopped with an error; 2: the configuration was refused. An error that nobody foresaw is raised.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        say(f"parallax {__version__} (Hydra {hydra.__version__})")
        return 0
    set_environment()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # mistakes come to us, and we say them in words
    _failed.clear()
    global _own_process
    _own_process = argv is None
    try:
        with _typed(prepare(words)), hydra_reads_so():
            hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name=CONFIG)(_job)()
        if _failed:
            raise _failed.pop()
    except (ConfigError, HydraException) as error:
        complain(error)
        return 2
    except Exception as error:
        sentence = missing(error) if isinstance(error, ModuleNotFoundError) else sentence_of(error)
        if sentence is None:
            raise
        said = "\n".join([f"The run stopped: {sentence.rstrip('.')}.", *told_notes(error)])
        say(said, sys.stderr)
        return 1
    return 0


def _job(cfg: DictConfig) -> float | None:
    """One run, or one job of a multirun. Returns the metric that a sweeper optimises; nan (to Optuna None) without one."""
    try:
        if _own_process and not is_multirun():
            leave_out_unused(cfg)
        return run_job(cfg)
    except Exception as error:
        _failed.append(error)
        return None


@dataclass(frozen=True)
class Results(Mapping[str, Any]):
    """What a run came to: the content of `results.json` as a mapping, and where the rest lies."""

    folder: Path  # the run folder
    content: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The checked configuration of `python run.py <overrides>`; nothing is run or written.

    Raises:
        ConfigError: with all that is wrong (`error.problems`).
    """
    set_environment()
    return compose_checked(list(overrides))


def run(overrides: Sequence[str] = ()) -> Results:
    """Run what `python run.py <overrides>` runs, in this process, and return its results.

        from parallax import run
        results = run(["method=seva", "aug.noise_steps=500"])
        results["difference"]["chair_i"], results.folder

    The run folder is made as for the command: `outputs/<date>/<time>` below the working directory, or `paths.output_dir`. It may
    be called again and again, and inside a program that uses Hydra itself.

    Raises:
        ConfigError: with all that is wrong, before anything is loaded or written.
        Exception: whatever stopped the run, as it is.
    """
    compose(overrides)
    outcome: list[Results] = []
    _failed.clear()

    def act(cfg: DictConfig) -> None:
        try:
            took_place()  # forgets that of the run before
            check(cfg)
            value = run_task(cfg)
            folder = took_place() or Path(HydraConfig.get().runtime.output_dir)
            outcome.append(Results(folder, value if isinstance(value, Mapping) else {"value": value}))
        except Exception as error:
            _failed.append(error)

    with _own_hydra() as program:
        program.run(CONFIG, act, [*overrides, "hydra.mode=RUN"], with_log_configuration=False)
    if _failed:
        raise _failed.pop()
    return outcome[0]


@contextmanager
def _own_hydra() -> Iterator[Hydra]:
    """Hydra with our configuration, whatever Hydra the process has already, which is back afterwards."""
    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    hydra.version.setbase(VERSION_BASE)
    try:
        yield Hydra(task_name="parallax", config_loader=loader(CONF))
    finally:
        GlobalHydra.instance().clear()
        if kept is not None:
            GlobalHydra.instance().initialize(kept)


@contextmanager
def _typed(words: Sequence[str]) -> Iterator[None]:
    """While inside, these are the words of the command line, which Hydra and Lightning read."""
    kept = sys.argv
    sys.argv = [kept[0], *words]
    try:
        yield
    finally:
        sys.argv = kept
