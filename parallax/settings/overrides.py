"""How overrides are read: Hydra's grammar and Hydra's loader, with four freedoms. What was typed stays as it was typed.

A node whose `_target_` changes, in a later file or on the command line, is another node: what was said of the former is gone.

Hydra refuses a key that no file holds. Ours may be such keys: `stages.align.optim.lr=1e-6`, an argument that a YAML file leaves
to the code. So a plain `key=value` may add, and the check judges afterwards whether the key exists. `stages.align.loss=stic`
chooses a file of the group `loss` for one stage. `+experiment=…` and `experiment=null` mean what they say.

All this happens to the parsed overrides, inside the loader: `.hydra/overrides.yaml`, `${hydra.job.override_dirname}`, sweepers,
launchers and messages see the words of the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_program
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import setup_globals
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from parallax.settings.bounded_omegaconf import bounded_omegaconf
from parallax.settings.choices import FOLLOWING
from parallax.settings.errors import ConfigError
from parallax.settings.hydra_part import hydra_problems
from parallax.settings.schema import STAGE_GROUPS
from parallax.settings.stages import overlay
from parallax.settings.targets import same

VERSION_BASE = "1.3"
CONFIG = "config"  # conf/config.yaml
bounded_omegaconf()
MAY_BE_NONE = ("experiment",)  # groups of which nothing may be chosen
# group@package entries of the defaults of conf/config.yaml and of losses; others are added
IN_THE_LIST = re.compile(
    r"\+?(judge@evaluation\.best_by|aug@(evaluation(\.suites\.\w+)?\.view|(stages\.\w+\.)?loss\.view))"
)


class Loader(ConfigLoaderImpl):
    """Hydra's loader, which reads overrides as this program means them. It travels with Hydra's jobs to other processes."""

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed, repo = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        for override in parsed:
            if not override.is_sweep_override() and not override.is_hydra_override():
                read(override, repo.group_exists(override.key_or_group))
        self._typed = [override for override in parsed if not override.is_sweep_override()]
        return parsed, repo

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Override], repo: CachingConfigRepository
    ) -> None:
        """As Hydra's, but for packages that a file names: to look into one, Hydra imports it."""
        main = repo.load_config(config_name) if config_name is not None else None
        named = OmegaConf.select(main.config, "hydra.searchpath") if main is not None else None
        if packages := [one for one in named or () if str(one).startswith("pkg:")]:
            raise ConfigError(f"hydra.searchpath={packages[0]} of the configuration is not allowed: give a folder.")
        super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's; its own part is looked at before anything of it is acted on. Raises ConfigError."""
        cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        if problems := hydra_problems(OmegaConf.to_container(cfg.hydra, resolve=False)):  # type: ignore[arg-type]
            raise ConfigError(problems)
        return cfg

    def list_groups(self, parent_name: str) -> list[str]:
        """As Hydra's, but for those that nobody chooses."""
        return [name for name in super().list_groups(parent_name) if name not in FOLLOWING]

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """As Hydra's, which copies the whole repository for each group it is asked about: `--help` asks about all."""
        words = overrides or []
        repos = self.__dict__.setdefault("_repos", {})
        if (asked := (config_name, *words)) not in repos:
            repos[asked] = super()._parse_overrides_and_create_caching_repo(config_name, words)[1]
        return list(repos[asked].get_group_options(group_name, results_filter))

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        loaded = super()._load_single_config(default, repo)
        self._read.append(
            OmegaConf.to_container(loaded.config, resolve=False)
        )  # Hydra goes on to merge into the original
        return loaded

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        """As Hydra's, but for nodes whose `_target_` a later file changes: of those, what earlier files say is gone."""
        self._read: list[Any] = []
        cfg = super()._compose_config_from_defaults_list(defaults, repo)
        for path in _changed_targets(self._read):
            nodes = [node for config in self._read if (node := _at(config, path)) is not None]
            OmegaConf.update(cfg, ".".join(path), reduce(overlay, nodes), merge=False, force_add=True)
        for override in self._typed:
            _emptied(override, cfg)
        return cfg


def _emptied(override: Override, cfg: DictConfig) -> None:
    """Make room in `cfg` for a node of another `_target_` that was typed, as `loss._target_=…` or `loss={_target_: …}`."""
    value = override.value()
    key, target = override.key_or_group, value.get("_target_") if isinstance(value, dict) else None
    if key.endswith("._target_"):
        key, target = key.removesuffix("._target_"), value
    before = None if target is None else OmegaConf.select(cfg, f"{key}._target_")
    if before is not None and not same(str(before), str(target)):
        OmegaConf.update(cfg, key, {"_target_": target}, merge=False, force_add=True)


def _changed_targets(read: Sequence[Any]) -> list[tuple[str, ...]]:
    """Where a later file names another `_target_` than an earlier one, outer nodes first."""
    seen: dict[tuple[str, ...], str] = {}
    changed: dict[tuple[str, ...], None] = {}
    for config in read:
        for path, target in _targets(config):
            if path[0] != "hydra" and not same(seen.setdefault(path, target), target):
                changed[path] = None
            seen[path] = target
    return sorted(changed, key=len)


def _targets(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, value in node.items() if isinstance(node, dict) else ():
        if name == "_target_" and path:
            yield path, str(value)
        yield from _targets(value, (*path, str(name)))


def _at(node: object, path: tuple[str, ...]) -> Any:
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def read(override: Override, is_group: bool) -> None:
    """Give a parsed override the meaning it has here; its `input_line` stays."""
    value = override.value()
    if is_group and not isinstance(value, dict):
        _read_choice(override)
    elif (stage := stage_choice(override)) is not None:
        override.package, override.key_or_group = override.key_or_group, stage
        override.type = OverrideType.ADD
    elif override.type == OverrideType.CHANGE:
        override.type = OverrideType.FORCE_ADD
        if value == "None":  # as W&B's agents write null
            override._value = None


def _read_choice(override: Override) -> None:
    listed = override.package is None or IN_THE_LIST.fullmatch(override.get_key_element()) is not None
    if override.key_or_group in MAY_BE_NONE and listed:
        if override.type == OverrideType.CHANGE and override.value() is None:
            override.type = OverrideType.DEL
        elif override.type == OverrideType.ADD:
            override.type = OverrideType.CHANGE
    elif override.type == OverrideType.CHANGE and not listed:
        override.type = OverrideType.ADD


def stage_choice(override: Override) -> str | None:
    """The group that `stages.<name>.<group>=<choice>` chooses from; None for any other override."""
    found = re.fullmatch(r"stages\.[^.]+\.(\w+)", override.key_or_group)
    is_choice = found is not None and found[1] in STAGE_GROUPS and isinstance(override.value(), str)
    return found[1] if found is not None and is_choice and not override.is_delete() else None


def loader(conf: Path, config_dir: str | None = None) -> Loader:
    """A loader of the configuration in `conf`, with a further folder as `--config-dir` adds it. Hydra's resolvers are set up."""
    setup_globals()
    path = create_config_search_path(str(conf))
    if config_dir is not None:
        further = f"file://{Path(config_dir).resolve()}"
        path.prepend(provider="command-line", path=further, anchor=SearchPathQuery(provider="schema"))
    return Loader(path)


@contextmanager
def hydra_reads_so() -> Iterator[None]:
    """While inside, a Hydra that starts uses `Loader`."""
    kept = hydra_program.ConfigLoaderImpl
    hydra_program.ConfigLoaderImpl = Loader  # type: ignore[misc]
    try:
        yield
    finally:
        hydra_program.ConfigLoaderImpl = kept  # type: ignore[misc]
