"""The command line before Hydra starts: every mistake named in words, while nothing has been made and nothing heavy imported.

The words themselves reach Hydra as they were typed; how they are read there stands in `overrides.py`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from parallax.records.plain_text import say
from parallax.settings.check import check
from parallax.settings.choices import groups, groups_with
from parallax.settings.errors import ConfigError
from parallax.settings.launchers import missing_plugin, multirun_problem
from parallax.settings.overrides import CONFIG, MAY_BE_NONE, Loader, loader, stage_choice
from parallax.settings.places import CONF
from parallax.settings.suggestions import closest, or_list

MOST_JOBS_CHECKED = 256  # of a multirun, before the first one starts


def prepare(argv: Sequence[str], conf: Path = CONF, *, complete: bool = True) -> list[str]:
    """Check the command and return it as Hydra should get it: as it was typed.

    Everything is checked before Hydra makes a run folder: the spelling of overrides, choices of groups, the composed
    configuration, and every job of a multirun before the first one starts. `complete=False` does without the files that must be
    there, as for a configuration that is only printed. Processes of a run
    after the first get two words more: they need no folder.

    Raises:
        ConfigError: with all that is wrong.
    """
    _refuse_dashes(argv)
    arguments = get_args_parser().parse_intermixed_args(list(argv))
    if arguments.experimental_rerun:
        raise ConfigError(
            "--experimental-rerun reads a pickled file, which may run any code, so this program does without. Give the same "
            "command again: the run goes on, or says that it is finished."
        )
    if arguments.shell_completion:
        return list(argv)
    command = _Command(arguments, conf)
    command.check_words()
    if command.only_shown:
        return list(argv)
    complete = complete and not arguments.cfg
    if command.multirun:
        command.check_jobs(complete=complete)
        return list(argv)
    command.composed(command.overrides, complete=complete)
    return [*argv, *_no_folder_of_its_own(command.overrides)]


def compose_checked(words: Sequence[str], conf: Path = CONF) -> DictConfig:
    """The checked configuration of `python run.py <words>`. May be called inside a running program of Hydra's.

    Raises:
        ConfigError: with all that is wrong.
    """
    command = _Command(argparse.Namespace(overrides=list(words)), conf)
    command.check_words()
    if command.multirun:
        raise ConfigError(
            "this is a multirun (hydra.mode=MULTIRUN), and one run is asked for; leave its experiment, or type -m."
        )
    return command.composed(command.overrides, complete=True)


def complain(error: Exception) -> None:
    """Print what is wrong, one sentence per line, on stderr. An error inside a part of ours is raised again, with its trace."""
    if isinstance(error, InstantiationException) and not isinstance(error.__cause__, ValueError | OSError):
        raise error
    problems = error.problems if isinstance(error, ConfigError) else [hydra_sentence(error)]
    head = (
        "The configuration has a problem:" if len(problems) == 1 else f"The configuration has {len(problems)} problems:"
    )
    say("\n".join([head, *(f"  - {problem}" for problem in problems)]), sys.stderr)


def hydra_sentence(error: BaseException) -> str:
    """What Hydra had to say, without its listings and traces; of a part that refused its arguments, that part's own words."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    said = str(error) or str(error.__cause__ or type(error).__name__)
    text = " ".join(line.strip() for line in said.splitlines() if line.strip())
    text = re.split(r" Available options in | Config search path| See https?://| Set the environment variable", text)[0]
    return text.rstrip(". ") + "."


def _no_folder_of_its_own(overrides: Sequence[str]) -> list[str]:
    """All processes of a run write to the first one's folder: the others, under torchrun or Slurm, need none from Hydra."""
    number = next((os.environ[name] for name in ("RANK", "SLURM_PROCID") if name in os.environ), "0")
    if number == "0" or any("hydra.run.dir=" in override for override in overrides):
        return []
    return ["hydra.run.dir=.", "hydra.output_subdir=null"]


def _refuse_dashes(argv: Sequence[str]) -> None:
    for word in argv:
        match = re.match(r"--?([A-Za-z_][\w./@]*)=(.*)", word)
        if match and not match[1].startswith(("config-", "cfg", "package", "info")):
            raise ConfigError(f"{word} has dashes in front: write {match[1]}={match[2]}.")
    known = [option for action in get_args_parser()._actions for option in action.option_strings]
    for word in argv:
        if word.startswith("--") and word.partition("=")[0] not in known:
            near = closest(word, known)
            hint = f" Did you mean {or_list(near)}?" if near else ""
            raise ConfigError(f"There is no option {word}.{hint} Keys are written without dashes: key=value.")


class _Command:
    """What was typed, and Hydra's loader to look at it with."""

    def __init__(self, arguments: argparse.Namespace, conf: Path) -> None:
        given = vars(arguments)
        self.overrides: list[str] = list(arguments.overrides)
        self.asked_multirun = bool(given.get("multirun"))
        self.shown = bool(given.get("cfg"))
        self.only_shown = bool(
            given.get("help") or given.get("hydra_help") or given.get("info") or given.get("cfg") == "hydra"
        )
        self.name: str = given.get("config_name") or CONFIG
        self.loader: Loader = loader(Path(given.get("config_path") or conf), given.get("config_dir"))
        self.multirun = False
        self.whole: DictConfig | None = None  # the configuration, with Hydra's part, without what is swept

    def check_words(self) -> None:
        """Raise ConfigError for words that cannot be read, choices that do not exist and packages that are not there."""
        problems: list[str] = []
        parsed = [found for text in self.overrides if (found := _parsed(text, problems)) is not None]
        for override in parsed:
            self._check_choice(override, problems)
        for text in self.overrides:
            if problem := missing_plugin(text.lstrip("+")):
                problems.append(problem)
        if not problems and not self.only_shown:
            self.whole = self._loaded(self.overrides, RunMode.MULTIRUN)
            self.multirun = not self.shown and (self.asked_multirun or self.whole.hydra.mode == RunMode.MULTIRUN)
        if not (self.multirun or self.asked_multirun):
            problems += [_several(override) for override in parsed if override.is_sweep_override()]
        if problems:
            raise ConfigError(problems)

    def _check_choice(self, override: Override, problems: list[str]) -> None:
        """`method=seva`, `stages.align.loss=stic`: every named choice must be a file."""
        group = stage_choice(override) or override.key_or_group
        have = self._choices(group)
        if not have or override.is_hydra_override() or isinstance(override.value(), dict):
            return
        text, key = str(override.input_line), override.key_or_group
        if override.type == OverrideType.ADD and override.package is None and group == key and group not in MAY_BE_NONE:
            problems.append(f"{text} adds a choice of {group}, and there is one already: write {text.lstrip('+')}.")
        if override.type == OverrideType.FORCE_ADD and group == key:
            problems.append(f"{text}: a choice is not forced in: write {text.lstrip('+')}.")
        changes = override.type == OverrideType.CHANGE and not override.is_sweep_override()
        if changes and override.value() is None and not override.package and group not in MAY_BE_NONE:
            problems.append(f"{text} leaves the run without {group}: choose one of {', '.join(have)}.")
        for name in _named(override):
            if name not in have:
                problems.append(_no_choice(override.get_key_element().lstrip("+"), group, name, have))

    def _choices(self, group: str) -> list[str]:
        if "." in group:
            return []  # a key; to ask for each one takes longer than all the rest
        found = self.loader.get_group_options(
            group, ObjectType.CONFIG, config_name=self.name, overrides=self._search_path()
        )
        return sorted(found)

    def _search_path(self) -> list[str]:
        return [text for text in self.overrides if text.startswith("hydra.searchpath=")]

    def check_jobs(self, *, complete: bool) -> None:
        """Compose and check every job of a multirun, so that the last one's typo does not wait for the others to finish.

        What another sweeper will try is not known beforehand: its keys are left as they are.
        """
        searched = any(text.lstrip("+").startswith(("hydra/sweeper", "hydra.sweeper")) for text in self.overrides)
        axes = [_values(text, searched) for text in [*self._swept_by_configuration(), *self.overrides]]
        axes = [axis for axis in axes if axis]
        jobs = [list(job) for job in itertools.islice(itertools.product(*axes), MOST_JOBS_CHECKED)]
        shared = [axis[0] for axis in axes if len(axis) == 1]
        shared += [] if self.asked_multirun else ["hydra.mode=RUN"]  # for a command of one point
        points = [[text for text, axis in zip(job, axes, strict=True) if len(axis) > 1] for job in jobs]
        launcher: dict[str, Any] = {}
        for job, differs in zip(jobs, points, strict=True):
            try:
                cfg = self.composed(job, complete=complete and not searched)
            except ConfigError as error:
                job_name = f" (job with {' '.join(differs)})" if differs else ""
                raise ConfigError([f"{problem}{job_name}" for problem in error.problems]) from error
            launcher = launcher or dict(self._loaded(job, RunMode.RUN).hydra.launcher)
            if problem := multirun_problem(launcher, cfg, shared, points):
                raise ConfigError(problem)

    def _swept_by_configuration(self) -> list[str]:
        """What `hydra.sweeper.params` of a chosen experiment adds to the jobs, but for keys that were typed, which win."""
        typed = {text.partition("=")[0] for text in self.overrides}
        params = OmegaConf.select(self.whole, "hydra.sweeper.params") if self.whole is not None else None
        return [f"{key}={value}" for key, value in (params or {}).items() if key not in typed]

    def composed(self, words: Sequence[str], *, complete: bool) -> DictConfig:
        """The checked configuration. Raises ConfigError with all that is wrong."""
        cfg = self.whole if words is self.overrides and self.whole is not None else self._loaded(words, RunMode.RUN)
        with open_dict(cfg):
            del cfg["hydra"]
        check(cfg, complete=complete)
        return cfg

    def _loaded(self, words: Sequence[str], mode: RunMode) -> DictConfig:
        try:
            return self.loader.load_configuration(self.name, list(words), run_mode=mode, validate_sweep_overrides=False)
        except (HydraException, YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(hydra_sentence(error)) from error


def _parsed(text: str, problems: list[str]) -> Override | None:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        bare = text.strip()
        in_groups = groups_with(bare)
        if in_groups:
            problems.append(f"{text} has no group in front: write {or_list(f'{group}={bare}' for group in in_groups)}.")
        elif "=" not in text:
            near = closest(bare, groups())
            hint = f" Did you mean {or_list(f'{group}=…' for group in near)}?" if near else ""
            problems.append(f"{text} is not of the form key=value.{hint}")
        else:
            reason = str(error).splitlines()[0].rstrip(".")
            problems.append(
                f"{text} cannot be read ({reason}). Quote values with special characters: '{_quoted(text)}'."
            )
        return None


def _quoted(text: str) -> str:
    key, _, value = text.partition("=")
    return f'{key}="{value}"'


def _several(override: Override) -> str:
    key, _, value = str(override.input_line).partition("=")
    return f"{override.input_line} names several values: add -m for one run each, or write {key}=[{value}] for a list."


def _no_choice(key: str, group: str, name: str, have: Sequence[str]) -> str:
    near = closest(name, have)
    hint = f" Did you mean {or_list(near)}?" if near else ""
    elsewhere = [other for other in groups_with(name.lower()) if other != group]
    if elsewhere:
        hint += f" ({or_list(f'{other}={name.lower()}' for other in elsewhere)} exists.)"
    return f"{key}={name} is no choice of {group}.{hint} Choices are: {', '.join(have)}."


def _named(override: Override) -> list[str]:
    """Every choice an override names: one, a list of several, or one for each job of a sweep."""
    values: list[Any] = [override.value()]
    if override.is_sweep_override():
        values = [] if override.is_range_sweep() else list(override.sweep_iterator())
    flat = itertools.chain.from_iterable(value if isinstance(value, list) else [value] for value in values)
    words = [value.text if isinstance(value, QuotedString) else value for value in flat]
    return [str(word) for word in words if word is not None and str(word) != "null"]


def _values(text: str, searched: bool) -> list[str]:
    """The words that one typed word stands for over all jobs; none where a sweeper will choose them."""
    override = OverridesParser.create().parse_override(text)
    if not override.is_sweep_override() or override.is_hydra_override():
        return [text]
    if searched:
        return []
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
