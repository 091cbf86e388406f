"""Only build the pairs: they stay in the cache, where `task=align` with the same settings finds every answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.models import processes
from parallax.models.devices import pick_device
from parallax.records.atomic import atomic_write_json
from parallax.reports.environment import write_environment
from parallax.reports.run_log import run_log
from parallax.settings.groups import Task, Trainer
from parallax.settings.stages import preference_stage
from parallax.tasks.conversation_trial import refuse_conversations
from parallax.tasks.memory_forecast import explained_generation
from parallax.tasks.parts import join_processes, make_datamodule, make_policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("pairs", "data", "model")
    is_run: ClassVar[bool] = True
    resumes: ClassVar[bool] = True


def run(cfg: DictConfig) -> dict[str, Any]:
    """Build the pairs of the method's first preference stage. Returns `{"pairs": counts}`."""
    stage = preference_stage(cfg)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    device = pick_device(config["trainer"]["accelerator"])
    builder = join_processes(Trainer.of(config["trainer"]))
    folder = processes.broadcast(Path(config["paths"]["output_dir"]))
    with run_log(folder, number=processes.rank()):
        if processes.is_first():
            write_environment(folder, config)
        refuse_conversations(stage, config)
        policy = make_policy(config, stage.lora, adapter=config["adapter"], device=device)
        with explained_generation(policy, stage.generation.batch_size, stage.generation.max_new_tokens):
            report = make_datamodule(stage, config, folder).build_pairs(policy, builder)
        if processes.is_first():
            atomic_write_json(folder / "pairs.json", report.as_data())
        log.info("pair set in %s", report.pair_set)
    return {"pairs": report.as_data()}
