"""The command line before Hydra sees it: mistakes named in words, and keys Hydra's strictness would refuse let through.

`stages.align.optim.lr=1e-6` names a key that no file holds. Every `key=value` is therefore handed on as `++key=value`, which
Hydra never refuses, and `check` judges afterwards whether the key exists. Choices of groups are judged here.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict

from parallax.settings.check import check
from parallax.settings.choices import choices, groups, groups_with
from parallax.settings.errors import ConfigError
from parallax.settings.hydra_part import hydra_problems
from parallax.settings.launchers import missing_plugin, multirun_problem
from parallax.settings.schema import STAGE_GROUPS
from parallax.settings.suggestions import closest, or_list

VERSION_BASE = "1.3"
PACKAGED = {"aug@evaluation.view"}  # group@package entries that conf/config.yaml has; others are added
MAY_BE_NONE = ("experiment",)  # groups of which nothing may be chosen
MOST_JOBS_CHECKED = 256  # of a multirun, before the first one starts


def prepare(argv: Sequence[str], conf: Path, *, complete: bool = True) -> list[str]:
    """The arguments as Hydra should get them: options first, then overrides.

    Everything is checked here, before Hydra makes a run folder: the spelling of overrides, choices of groups, the composed
    configuration, and every job of a multirun before the first one starts. `complete=False` does without the files that must be
    there, as for a configuration that is only printed.

    Raises:
        ConfigError: with all that is wrong.
    """
    _refuse_dashes(argv)
    arguments = get_args_parser().parse_intermixed_args(list(argv))
    overrides = list(arguments.overrides)
    if arguments.shell_completion:
        return list(argv)
    if arguments.experimental_rerun:
        raise ConfigError("--experimental-rerun reads a pickle, which may run anything; type the overrides again.")
    if arguments.config_path or arguments.config_name:
        raise ConfigError(
            "--config-path and --config-name are not used here; files of your own go into a --config-dir."
        )
    options = _without(argv, overrides)
    folders = [conf, *([Path(arguments.config_dir)] if arguments.config_dir else [])]
    problems: list[str] = []
    multirun = arguments.multirun or (not arguments.cfg and _is_multirun(overrides, folders))
    rewritten = [_rewrite(override, folders, multirun, problems) for override in overrides]
    rewritten = [override for override in rewritten if override]
    if problems:
        raise ConfigError(problems)
    composed_by_hydra = arguments.help or arguments.hydra_help or arguments.info
    if composed_by_hydra or arguments.cfg == "hydra":
        return [*options, *rewritten]
    _check_plugins(rewritten)
    complete = complete and not arguments.cfg
    if multirun:
        _check_jobs(rewritten, conf, folders, complete=complete)
    else:
        _check_composed(rewritten, conf, folders, complete=complete)
        rewritten += _no_folder_of_its_own(rewritten)
    return [*options, *rewritten]


def _no_folder_of_its_own(overrides: Sequence[str]) -> list[str]:
    """All processes of a run write to the first one's folder: the others, under torchrun or Slurm, need none from Hydra."""
    number = next((os.environ[name] for name in ("RANK", "SLURM_PROCID") if name in os.environ), "0")
    if number == "0" or any("hydra.run.dir=" in override for override in overrides):
        return []
    return ["hydra.run.dir=.", "hydra.output_subdir=null"]


def compose_checked(words: Sequence[str], conf: Path) -> DictConfig:
    """The checked configuration of `python run.py <words>`. May be called inside a running program of Hydra's.

    Raises:
        ConfigError: with all that is wrong.
    """
    problems: list[str] = []
    rewritten = [word for text in words if (word := _rewrite(text, [conf], False, problems))]
    if problems:
        raise ConfigError(problems)
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        return _check_composed(rewritten, conf, [conf], complete=True)
    finally:
        GlobalHydra.instance().clear()
        if running is not None:
            GlobalHydra.instance().initialize(running)


def as_typed(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra reports them (`HydraConfig.get().overrides.task`), back in the form people type."""
    long_form = re.compile(r"^\w+@(stages\.[^=]+)=")
    return [long_form.sub(r"\1=", override.lstrip("+")) for override in overrides]


def complain(error: Exception) -> None:
    """Print what is wrong, one sentence per line, on stderr. An error inside a part of ours is raised again, with its trace."""
    if isinstance(error, InstantiationException) and not isinstance(error.__cause__, ValueError | OSError):
        raise error
    problems = error.problems if isinstance(error, ConfigError) else [hydra_sentence(error)]
    head = (
        "The configuration has a problem:" if len(problems) == 1 else f"The configuration has {len(problems)} problems:"
    )
    print("\n".join([head, *(f"  - {problem}" for problem in problems)]), file=sys.stderr)


def hydra_sentence(error: BaseException) -> str:
    """What Hydra had to say, without its listings and traces; of a part that refused its arguments, that part's own words."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    text = re.split(r" Available options in | Config search path| See https?://| Set the environment variable", text)[0]
    return text.rstrip(". ") + "."


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


def _without(argv: Sequence[str], overrides: Sequence[str]) -> list[str]:
    left = list(overrides)
    options = []
    for word in argv:
        if word in left:
            left.remove(word)
        else:
            options.append(word)
    return options


def _rewrite(text: str, folders: Sequence[Path], multirun: bool, problems: list[str]) -> str:
    override = _parsed(text, problems)
    if override is not None and override.is_sweep_override() and not multirun:
        key, _, value = text.partition("=")
        problems.append(f"{text} names several values: add -m for one run each, or write {key}=[{value}] for a list.")
        return text
    if override is None or override.key_or_group.split("/")[0].split(".")[0] == "hydra":
        return text
    key = override.key_or_group
    if choices(key, folders) and "." not in key and not isinstance(override.value(), dict):
        return _group_choice(text, override, folders, problems)
    stage = re.fullmatch(r"stages\.([^.]+)\.(\w+)", key)
    if stage and stage[2] in STAGE_GROUPS and isinstance(override.value(), str):
        return _stage_choice(text, stage[1], stage[2], override, folders, problems)
    if override.type == OverrideType.DEL:
        return text
    body = text.lstrip("+")
    return "++" + (body[: -len("None")] + "null" if body.endswith("=None") else body)


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


def _group_choice(text: str, override: Override, folders: Sequence[Path], problems: list[str]) -> str:
    """`method=seva`: every named choice must be a file."""
    group = override.key_or_group
    have = choices(group, folders)
    if override.type == OverrideType.CHANGE and not override.is_sweep_override() and override.value() is None:
        if group in MAY_BE_NONE:
            return ""
        problems.append(f"{text} leaves the run without {group}: choose one of {', '.join(have)}.")
    wrong = [name for name in _named(override) if name not in have]
    for name in wrong:
        near = closest(name, have)
        hint = f" Did you mean {or_list(near)}?" if near else ""
        problems.append(f"{group}={name} is no choice of {group}.{hint} Choices are: {', '.join(have)}.")
    added = override.package is not None and override.type == OverrideType.CHANGE
    return f"+{text}" if added and f"{group}@{override.package}" not in PACKAGED else text


def _stage_choice(
    text: str, stage: str, group: str, override: Override, folders: Sequence[Path], problems: list[str]
) -> str:
    """`stages.align.loss=stic` means the group's choice, for this stage."""
    have = choices(group, folders)
    name = str(override.value())
    if name not in have:
        near = closest(name, have)
        hint = f" Did you mean {or_list(near)}?" if near else ""
        problems.append(f"stages.{stage}.{group}={name} is no choice of {group}.{hint} Choices are: {', '.join(have)}.")
        return text
    return f"+{group}@stages.{stage}.{group}={name}"


def _named(override: Override) -> list[str]:
    """Every choice an override names: one, a list of several, or one for each job of a sweep."""
    values: list[Any] = [override.value()]
    if override.is_sweep_override():
        values = [] if override.is_range_sweep() else list(override.sweep_iterator())
    flat = itertools.chain.from_iterable(value if isinstance(value, list) else [value] for value in values)
    words = [value.text if isinstance(value, QuotedString) else value for value in flat]
    return [str(word) for word in words if word is not None and str(word) != "null"]


def _check_plugins(overrides: Sequence[str]) -> None:
    """A launcher or sweeper whose package is not installed."""
    for text in overrides:
        if problem := missing_plugin(text.lstrip("+")):
            raise ConfigError(problem)


def _check_jobs(overrides: list[str], conf: Path, folders: Sequence[Path], *, complete: bool) -> None:
    """Compose and check every job of a multirun, so that the last one's typo does not wait for the others to finish.

    What another sweeper will try is not known beforehand: its keys are left as they are.
    """
    searched = any(override.lstrip("+").startswith(("hydra/sweeper", "hydra.sweeper")) for override in overrides)
    parser = OverridesParser.create()
    axes = []
    for text in [*_of_the_experiment(overrides, folders), *overrides]:
        override = parser.parse_override(text)
        if not override.is_sweep_override() or override.is_hydra_override():
            axes.append([text])
        elif not searched:
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    jobs = [list(job) for job in itertools.islice(itertools.product(*axes), MOST_JOBS_CHECKED)]
    shared = as_typed([axis[0] for axis in axes if len(axis) == 1])
    shared += ["hydra.mode=RUN"] if _sweeps(overrides, folders) else []  # for a command of one point
    points = [_differing(job, axes) for job in jobs]
    launcher: dict[str, Any] = {}
    for job, differs in zip(jobs, points, strict=True):
        try:
            cfg = _check_composed(job, conf, folders, complete=complete and not searched)
        except ConfigError as error:
            job_name = f" (job with {' '.join(differs)})" if differs else ""
            raise ConfigError([f"{problem}{job_name}" for problem in error.problems]) from error
        launcher = launcher or dict(_composed(job, conf, folders).hydra.launcher)
        if problem := multirun_problem(launcher, cfg, shared, points):
            raise ConfigError(problem)


def _differing(job: Sequence[str], axes: Sequence[Sequence[str]]) -> list[str]:
    """The words of a job that not all jobs have, as typed."""
    return as_typed([text for text, axis in zip(job, axes, strict=True) if len(axis) > 1])


def _of_the_experiment(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What `hydra.sweeper.params` of a chosen experiment adds to the jobs, but for keys that were typed, which win."""
    params: dict[str, Any] = {}
    for content in _experiments(overrides, folders):
        params |= {str(key): value for key, value in (OmegaConf.select(content, "hydra.sweeper.params") or {}).items()}
    typed = {text.partition("=")[0] for text in overrides}
    return [f"{key}={value}" for key, value in params.items() if key not in typed]


def _is_multirun(overrides: Sequence[str], folders: Sequence[Path]) -> bool:
    """Whether the words alone make it one, without -m: `hydra.mode`, typed or in the chosen experiment."""
    for text in overrides:
        if text.lstrip("+").startswith("hydra.mode="):
            return text.endswith("=MULTIRUN")
    return _sweeps(overrides, folders)


def _sweeps(overrides: Sequence[str], folders: Sequence[Path]) -> bool:
    """Whether a chosen experiment is a multirun by itself."""
    return any(OmegaConf.select(content, "hydra.mode") == "MULTIRUN" for content in _experiments(overrides, folders))


def _experiments(overrides: Sequence[str], folders: Sequence[Path]) -> list[Any]:
    """The files of the chosen experiments, as they stand."""
    chosen = [text.partition("=")[2] for text in overrides if text.startswith("experiment=")]
    files = [folder / "experiment" / f"{name}.yaml" for name in chosen for folder in folders]
    return [OmegaConf.load(file) for file in files if file.is_file()]


def _check_composed(overrides: list[str], conf: Path, folders: Sequence[Path], *, complete: bool) -> DictConfig:
    cfg = _composed(overrides, conf, folders)
    hydra = OmegaConf.to_container(cfg.hydra, resolve=False)
    if problems := hydra_problems(hydra):  # type: ignore[arg-type]
        raise ConfigError(problems)
    with open_dict(cfg):
        del cfg.hydra
    check(cfg, complete=complete)
    return cfg


def _composed(overrides: list[str], conf: Path, folders: Sequence[Path]) -> DictConfig:
    """The configuration with Hydra's own part."""
    search = (
        [f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in folders[1:])}]"]
        if folders[1:]
        else []
    )
    try:
        with initialize_config_dir(str(conf), version_base=VERSION_BASE):
            return compose("config", overrides=[*search, *overrides], return_hydra_config=True)
    except HydraException as error:
        raise ConfigError(hydra_sentence(error)) from error
