"""What differs between runs, from their resolved configurations: the settings a comparison is about.

One decision shows up in many keys: `loss=stic` changes five, and `${loss.beta}` repeats a value elsewhere. Keys that split the
runs in the same way cannot be told apart by these runs, so one of them speaks for all: the one that was typed, else the
choice of a group, else the shortest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallax.reports.run_folder import RunFolder

NOT_COMPARED = (  # where files go, what is logged, what the run is called
    "paths", "hydra", "logger", "resume", "tags", "task", "study", "sweep", "runs", "run", "optimized_metric",
    "export", "experiment", "local", "on_data", "on_model",
)  # fmt: skip
ABSENT = "–"  # the value of a key that a run does not have


@dataclass(frozen=True, slots=True)
class Setting:
    """One key that differs: its value in each run, and the other keys that split the runs as it does."""

    key: str  # dotted
    short: str  # as much of its end as tells it from the others
    values: tuple[Any, ...]  # one per run; plain scalars, ABSENT where a run has no such key
    along: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether every run that has the key has a number there."""
        known = [value for value in self.values if value != ABSENT]
        return bool(known) and all(type(value) in (int, float) for value in known)

    @property
    def levels(self) -> list[Any]:
        """Its distinct values: numbers in their order, words in order of appearance; ABSENT last."""
        known = list(dict.fromkeys(value for value in self.values if value != ABSENT))
        return (sorted(known) if self.numeric else known) + ([ABSENT] if ABSENT in self.values else [])


def settings_that_differ(runs: Sequence[RunFolder]) -> list[Setting]:
    """The settings that are not the same in all runs, in the order of the configuration."""
    flat = [_flat(run) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    columns = {key: tuple(values.get(key, ABSENT) for values in flat) for key in keys}
    typed = {key for run in runs for key in run.typed}
    groups: dict[tuple[int, ...], list[str]] = {}
    for key, column in columns.items():
        split = _split(column)
        if max(split, default=0) > 0:
            groups.setdefault(split, []).append(key)
    chosen: dict[str, tuple[str, ...]] = {}
    for alike in groups.values():
        speakers = _speakers(alike, columns, typed)
        for key in speakers:
            chosen[key] = tuple(other for other in alike if other not in speakers) if key == speakers[0] else ()
    short = shortened(list(chosen))
    return [Setting(key, short[key], columns[key], chosen[key]) for key in columns if key in chosen]


def shortened(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key by its last name, or by as many names as tell it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[key] = next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1), key)
    return names


def value_words(value: object) -> str:
    """A value as people type it."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _speakers(alike: Sequence[str], columns: Mapping[str, tuple[Any, ...]], typed: set[str]) -> list[str]:
    """The keys that speak for a group: every typed one with values of its own, or the best of the others."""
    ranked = sorted(alike, key=lambda key: _rank(key, typed))
    speakers = [ranked[0]]
    for key in ranked[1:]:
        if key in typed and columns[key] not in [columns[speaker] for speaker in speakers]:
            speakers.append(key)
    return speakers


def _rank(key: str, typed: set[str]) -> tuple[bool, bool, int, bool]:
    parts = key.split(".")
    return key not in typed, parts[0] in ("stages", "evaluation"), len(parts), parts[-1] != "name"


def _split(column: Sequence[Any]) -> tuple[int, ...]:
    """How a column divides the runs: for each run the number of its value, in order of appearance."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(json.dumps(value, sort_keys=True, default=str), len(numbers)) for value in column)


def _flat(run: RunFolder) -> dict[str, Any]:
    """The choices of groups, then every value of the configuration by its dotted key."""
    flat: dict[str, Any] = {
        group: choice
        for group, choice in run.chosen.items()
        if group in run.config and group not in NOT_COMPARED and isinstance(run.config[group], Mapping)
    }
    _flatten({key: value for key, value in run.config.items() if key not in NOT_COMPARED}, "", flat)
    return flat


def _flatten(node: Mapping[str, Any], above: str, flat: dict[str, Any]) -> None:
    for key, value in node.items():
        if key in ("cache_dir", "output_dir"):
            continue
        if isinstance(value, Mapping):
            _flatten(value, f"{above}{key}.", flat)
        else:
            flat[f"{above}{key}"] = json.dumps(value, default=str) if isinstance(value, list) else value
