"""A W&B sweep file (`sweeps/*.yaml`) as this program reads it: its points, its fixed words, its metric. Imports nothing heavy.

The words of a point are those that `wandb agent` would type: `key=value`, values as Python writes them. Grids are listed in
order; random sweeps are drawn with a seed, so that the same command finds the same points. A Bayesian sweep needs W&B's server,
which looks at the results before it says where to go next.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallax.records.yaml_file import read_yaml
from parallax.settings.errors import ConfigError
from parallax.settings.places import locate

RUNS = 10  # points of a random sweep whose file has no run_cap
MACROS = ("${args_no_hyphens}", "${args_append_hydra}", "${args_override_hydra}")  # forms of a point that Hydra reads


@dataclass(frozen=True, slots=True)
class SweepFile:
    """What a sweep file says."""

    path: Path
    name: str
    method: str  # grid | random | bayes
    metric: str  # as runs log it, e.g. eval/chair_i; "" when the file names none
    minimize: bool
    parameters: dict[str, dict[str, Any]]
    words: list[str]  # typed for every point, before its own
    run_cap: int | None

    def points(self, *, seed: int = 0, fixed: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        """Every point in the order it is run. Keys in `fixed` are set by someone else and are not swept.

        Raises:
            ConfigError: a Bayesian sweep, or a distribution this program cannot draw from.
        """
        if self.method not in ("grid", "random"):
            raise ConfigError(self.refusal())
        swept = {key: node for key, node in self.parameters.items() if key not in fixed}
        if self.method == "grid":
            axes = [[(key, value) for value in self._values(key, node)] for key, node in swept.items()]
            found = [dict(point) for point in itertools.product(*axes)]
        else:
            rng = random.Random(seed)
            wanted = self.run_cap or RUNS
            found = [{key: self._draw(key, node, rng) for key, node in swept.items()} for _ in range(wanted)]
        return found[: self.run_cap] if self.run_cap else found

    def refusal(self) -> str:
        """Why this method is not run here, and what to type instead."""
        return (
            f"{self.path} has method: {self.method}, which asks W&B's server for every next point. Use `wandb sweep {self.path}` "
            "and then `wandb agent` with what that prints; grid and random run here."
        )

    def _values(self, key: str, node: Mapping[str, Any]) -> list[Any]:
        if "value" in node:
            return [node["value"]]
        if "values" in node:
            return list(node["values"])
        low, high = node.get("min"), node.get("max")
        if type(low) is int and type(high) is int:
            return list(range(low, high + 1))
        raise ConfigError(f"{self.path}: a grid needs `values` for {key}; it has {', '.join(node) or 'nothing'}.")

    def _draw(self, key: str, node: Mapping[str, Any], rng: random.Random) -> Any:
        if "value" in node:
            return node["value"]
        if "values" in node:
            return rng.choices(list(node["values"]), node.get("probabilities"))[0]
        low, high = self._number(key, node, "min"), self._number(key, node, "max")
        whole = isinstance(low, int) and isinstance(high, int)
        kind = str(node.get("distribution") or ("int_uniform" if whole else "uniform"))
        if kind == "int_uniform":
            return rng.randint(int(low), int(high))
        if kind == "uniform":
            return rng.uniform(low, high)
        if kind == "q_uniform":
            step = float(node.get("q", 1))
            return round(rng.uniform(low, high) / step) * step
        if kind == "log_uniform_values":
            return math.exp(rng.uniform(math.log(low), math.log(high)))
        raise ConfigError(
            f"{self.path}: {key} is drawn from {kind}, which only W&B's server does; here there are values, int_uniform, "
            "uniform, q_uniform and log_uniform_values."
        )

    def _number(self, key: str, node: Mapping[str, Any], side: str) -> float:
        value = node.get(side)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        hint = " (YAML takes 1e-5 for a word; write 1.0e-5)" if isinstance(value, str) else ""
        raise ConfigError(f"{self.path}: {key} needs a number as its {side}, and it is {value!r}{hint}.")


def read_sweep(path: Path | str) -> SweepFile:
    """Read a sweep file. Raises ConfigError, in words, when it is none."""
    path = locate(path)
    try:
        content = read_yaml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"sweep={path} does not exist (looked from {Path.cwd()}).") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"sweep={path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise ConfigError(f"sweep={path} is no sweep file: it has no `parameters`.")
    if str(content.get("program")) != "run.py":
        raise ConfigError(f"{path} sweeps {content.get('program')}, and this is run.py; say `program: run.py`.")
    nested = [key for key, node in content["parameters"].items() if not isinstance(node, dict) or "parameters" in node]
    if nested:
        raise ConfigError(
            f"{path}: {nested[0]} is not a mapping with value, values or min and max; write dotted keys such as loss.beta."
        )
    metric = content.get("metric") or {}
    return SweepFile(
        path=path,
        name=str(content.get("name") or path.stem),
        method=str(content.get("method")),
        metric=str(metric.get("name") or ""),
        minimize=metric.get("goal", "minimize") != "maximize",
        parameters={str(key): node for key, node in content["parameters"].items()},
        words=_fixed_words(path, content.get("command")),
        run_cap=content.get("run_cap"),
    )


def point_words(point: Mapping[str, Any]) -> list[str]:
    """What an agent types for a point."""
    return [f"{key}={value}" for key, value in point.items()]


def _fixed_words(path: Path, command: Iterable[object] | None) -> list[str]:
    """The words of `command` that are neither the program nor the point."""
    words = [str(word) for word in command or []]
    if not any(macro in words for macro in MACROS):
        raise ConfigError(
            f"{path}: its `command` must hold {MACROS[0]}, or Hydra cannot read the point's `--key=value`."
        )
    return [word for word in words if not word.startswith("${")]


def sweep_problems(plain: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with `sweep` and its task, by key."""
    task, sweep = (plain.get("task") or {}).get("name"), plain.get("sweep")
    if task != "sweep":
        return {"sweep": f"sweep is only read by task=sweep, and this is task={task}."} if sweep else {}
    if not sweep:
        return {"sweep": "task=sweep needs a sweep file: add sweep=sweeps/noise_steps.yaml or another of that folder."}
    try:
        read_sweep(str(sweep)).points()
    except ConfigError as error:
        return {"sweep": str(error)}
    return {}
