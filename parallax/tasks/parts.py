"""From a stage's configuration to its live parts: source, proposer, judge, selector, datamodule, policy, suites."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.models import processes
from parallax.models.loading import load_policy
from parallax.preference.looks import Look
from parallax.settings.build import build
from parallax.settings.groups import Lora, Model, Stage, Trainer

if TYPE_CHECKING:
    from datamodules.preference import PreferenceDataModule
    from datamodules.supervised import SupervisedDataModule
    from parallax.evaluation import Suite
    from parallax.models.policy import Policy


def join_processes(trainer: Trainer) -> Any:
    """`joined_processes`, without importing Lightning for a run that is alone anyway: its first answers need none of it."""
    if trainer.devices == trainer.num_nodes == 1 and int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    from lightning_modules.trainer import joined_processes

    return joined_processes(trainer)


def make_policy(
    config: Mapping[str, Any], lora: Lora, *, adapter: Path | str | None, device: str, sharded: bool = False
) -> Policy:
    """The policy of the configuration, with a fresh adapter or the one given; `sharded` over the processes of the run."""
    model = Model.of(config["model"])
    if model.dtype == "float16" and device == "cpu":
        raise ValueError(
            "model.dtype=float16 needs a GPU, and torch sees none that may be used here; use model.dtype=auto"
        )
    cache = Path(config["paths"]["cache_dir"]).expanduser()
    policy = load_policy(
        model, lora, device=device, adapter=adapter, seed=int(config["seed"]),
        digest_memory=cache / "weight_digests.json", feature_folder=cache / "features",
        mesh=processes.mesh(device) if sharded else None,
    )  # fmt: skip
    policy.num_workers = config["generation"]["num_workers"]
    return policy


def make_datamodule(stage: Stage, config: Mapping[str, Any], run_folder: Path) -> PreferenceDataModule:
    """The datamodule of a preference stage; nothing is read or built yet but the source's index."""
    from datamodules.preference import PreferenceDataModule

    def part(name: str) -> Any:
        node = getattr(stage, name)
        return build(node, name) if node is not None else None

    objective, noise = part("loss"), part("noise")
    return PreferenceDataModule(
        part("data"),
        part("proposer"),
        part("judge"),
        part("selector"),
        cache_dir=config["paths"]["cache_dir"],
        pairs=stage.pairs,
        trainer=stage.trainer,
        generation=stage.generation,
        reference_mode=stage.reference.mode,
        seed=stage.seed,
        skipped=run_folder / "skipped.jsonl",
        limit=stage.debug.limit_samples,
        limit_pairs=stage.debug.overfit_pairs,
        asker=part("asker"),
        looks=objective.looks if noise is None else [Look(view=noise, purpose="training noise")],
        token_weights=objective.token_weights,
        show_progress=processes.is_first(),
    )


def make_supervised(stage: Stage, config: Mapping[str, Any], run_folder: Path) -> SupervisedDataModule:
    """The datamodule of a supervised stage; nothing is read yet but the source's index."""
    from datamodules.supervised import SupervisedDataModule

    def part(name: str) -> Any:
        node = getattr(stage, name)
        return build(node, name) if node is not None else None

    return SupervisedDataModule(
        part("data"),
        share=stage.share or 1.0,
        proposer=part("proposer"),
        judge=part("judge") if stage.keep is not None else None,
        keep=part("keep"),
        infusion=part("infusion"),
        asker=part("asker"),
        cache_dir=config["paths"]["cache_dir"],
        generation=stage.generation,
        trainer=stage.trainer,
        seed=stage.seed,
        max_skipped_share=stage.pairs.max_skipped_share,
        skipped=run_folder / "skipped.jsonl",
        limit=stage.debug.limit_samples,
    )


def make_suites(config: Mapping[str, Any]) -> list[Any]:
    """The evaluation suites, shortened where `evaluation.limit` or `debug.limit_evaluation` say so."""
    evaluation = dict(config["evaluation"])
    limits = [limit for limit in (evaluation["limit"], config["debug"]["limit_evaluation"]) if limit is not None]
    evaluation["limit"] = min(limits) if limits else None
    return build_suites(evaluation)


def build_suites(evaluation: Mapping[str, Any]) -> list[Suite]:
    """The suites of the `evaluation` group (plain data), cut to `evaluation.limit` where it is set. May be empty."""
    suites = [
        build(node, f"evaluation.suites.{name}") for name, node in (evaluation.get("suites") or {}).items() if node
    ]
    limit = evaluation.get("limit")
    return [suite.limited(limit) for suite in suites]
