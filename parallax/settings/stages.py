"""What each stage of a method gets (the groups everybody uses, with what the stage changes for itself), and in which rounds.

`stages.align.loss.beta=0.3` changes β for the stage `align` alone. Nodes that refer to a group (`${aug}`, `${pairs.…}`)
see the stage's own values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parallax.settings.errors import ConfigError
from parallax.settings.groups import Stage
from parallax.settings.schema import STAGE_GROUPS
from parallax.settings.targets import same


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of one round: what a run does at a time."""

    round: int  # from 1
    name: str  # in logs, results and below stages/: `align`; `round_2/align` where the method has several rounds
    stage: Stage  # with the groups as it uses them
    opens_round: bool  # the first stage of its round
    closes_round: bool  # the last one


def planned_stages(cfg: DictConfig) -> list[PlannedStage]:
    """The stages of `method.stages`, `method.rounds` times over, in the order they run."""
    stages, rounds = resolve_stages(cfg), int(cfg.method.rounds)
    last = len(stages) - 1
    return [
        PlannedStage(
            number,
            stage["name"] if rounds == 1 else f"round_{number}/{stage['name']}",
            Stage.of(stage),
            opens_round=place == 0,
            closes_round=place == last,
        )
        for number in range(1, rounds + 1)
        for place, stage in enumerate(stages)
    ]


def resolve_stages(cfg: DictConfig) -> list[dict[str, Any]]:
    """One plain dict per stage of `method.stages`, in order, without interpolations.

    Each holds `name`, `fit`, `proposer`, `selector`, whatever else the method gives the stage, and the groups `data`, `aug`,
    `pairs`, `generation`, `judge`, `prompts`, `loss`, `reference`, `lora`, `optim`, `trainer` as this stage uses them
    (`lora.alpha` filled in), and `seed` and `debug`. `_target_` nodes are left to the caller to instantiate (`_convert_="all"`).

    Raises:
        ConfigError: a stage does not exist, or a value refers to one that does not exist.
    """
    return [resolve_stage(cfg, name) for name in cfg.method.stages]


def preference_stage(cfg: DictConfig) -> Stage:
    """The method's first stage that learns from pairs, for tasks that are about those. Raises ConfigError when it has none."""
    for stage in resolve_stages(cfg):
        if stage["fit"] == "preference":
            return Stage.of(stage)
    raise ConfigError(f"task={cfg.task.name}: the method {cfg.method.name} has no stage that uses pairs")


def resolve_stage(cfg: DictConfig, name: str) -> dict[str, Any]:
    """One stage of the method; see `resolve_stages`."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    node = plain.get("stages", {}).get(name)
    if not isinstance(node, dict) or "fit" not in node:
        known = defined_stages(plain)
        raise ConfigError(f"method.stages names {name!r}, and the method has no such stage; it has {', '.join(known)}")
    own = {group: node.pop(group) for group in STAGE_GROUPS if group in node}
    for group, change in own.items():
        plain[group] = change if _turns_off(change) else overlay(plain.get(group), change)
    plain["stages"] = {**plain["stages"], name: node}  # the others stay for references such as ${stages.align.proposer}
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(plain), resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"stages.{name}: {error.msg if hasattr(error, 'msg') else error}") from error
    resolved = cast(dict[str, Any], resolved)
    stage = {"name": name, **resolved["stages"][name], **{group: resolved[group] for group in STAGE_GROUPS}}
    stage |= {"seed": resolved["seed"], "debug": resolved["debug"]}
    if stage["lora"].get("enabled") and stage["lora"].get("alpha") is None:
        stage["lora"]["alpha"] = 2 * stage["lora"]["r"]
    return stage


def _turns_off(change: object) -> bool:
    """`lora=none` for one stage: nothing of the adapter's settings is left."""
    return isinstance(change, dict) and change == {"enabled": False}


def overlay(base: object, change: object) -> Any:
    """`change` laid over `base`, mapping by mapping. A node with another `_target_` replaces the whole node."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if "_target_" in change and not same(str(change["_target_"]), str(base.get("_target_"))):
        return change
    return {**base, **{key: overlay(base.get(key), value) for key, value in change.items()}}


def defined_stages(plain: dict[str, Any]) -> list[str]:
    """Names of the stages the method describes: those that say how they are fitted."""
    stages = plain.get("stages") or {}
    return [name for name, node in stages.items() if isinstance(node, dict) and "fit" in node]
