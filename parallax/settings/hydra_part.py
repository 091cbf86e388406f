"""Hydra's own part of the configuration (`hydra.*`), looked at before Hydra acts on it: it names code, too.

An experiment file may set any of it. Callbacks, launchers, sweepers and logging handlers are only those that come with Hydra, its
plugins and this program, and of a job's environment only what chooses no code and no host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parallax.settings.source import PACKAGES

CALLBACKS = ("parallax.tasks.multirun.MultirunEnd",)
PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.", "optuna.samplers.", "optuna.pruners.")
HANDLERS = ("logging.", "rich.logging.", "colorlog.")
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "MKL_NUM_THREADS", "NCCL_DEBUG", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM",
    "WANDB_MODE",
)  # fmt: skip


def hydra_problems(hydra: Mapping[str, Any]) -> list[str]:
    """Sentences about what in `hydra` (plain data, interpolations unresolved) would have code run that is not on the list."""
    return list(_problems(hydra, "hydra"))


def _problems(value: object, key: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _named(str(name), item, key)
            yield from _problems(item, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _problems(item, f"{key}.{place}")


def _named(name: str, value: object, key: str) -> Iterator[str]:
    inside = key.split(".")
    if name == "_target_" and not _allowed(str(value), inside):
        yield (
            f"{key}._target_={value} is not allowed: of Hydra's own part only callbacks of this program, and Hydra's launchers "
            "and sweepers, may be named. Take it out of the experiment or the sweep file."
        )
    elif name in ("()", "class", "cls") and "_logging" in key and not str(value).startswith(HANDLERS):
        yield f"{key}.{name}={value} is not allowed: handlers and formatters of the log are those of `logging`, rich or colorlog."
    elif name == "custom_search_space" and value and str(value).split(".")[0] not in PACKAGES:
        yield f"{key}.{name}={value} is not allowed: a search space is a function in {', '.join(PACKAGES)}."
    elif key == "hydra.job.env_set" and name not in VARIABLES:
        yield (
            f"{key}.{name} is not allowed: variables can choose which code is loaded and where keys are sent, so that only "
            f"{', '.join(VARIABLES)} may be set here. Set it in the shell, if you mean it."
        )


def _allowed(target: str, inside: list[str]) -> bool:
    if inside[1:2] == ["callbacks"]:
        return target in CALLBACKS
    return target.startswith(PLUGINS)
