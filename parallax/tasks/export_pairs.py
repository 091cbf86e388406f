"""The task `export_pairs`: preference pairs in the formats of TRL, ms-swift, LLaMA-Factory and LLaVA.

    python run.py task=export_pairs method=seva aug.noise_steps=500 task.format=trl task.output=pairs_for_trl
    python run.py task=export_pairs task.pairs=outputs/<run> task.format=ms_swift task.output=pairs_for_swift
    python run.py task=export_pairs method=dpo_file data.path=theirs.json data.image_root=images task.format=llava

Without `task.pairs` the pairs are those of the method's first preference stage: answers that an earlier run generated are
found in the cache, so that nothing is generated twice. Ready-made pairs are exported as they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from parallax.settings.build import build
from parallax.settings.errors import ConfigError
from parallax.settings.stages import preference_stage

if TYPE_CHECKING:
    from parallax.records import PreferencePair

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Write the pairs. Returns counts under `export`."""
    from datamodules.formats.pair_export import export_pairs
    from parallax.reports.run_log import run_log

    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder, task = Path(plain["paths"]["output_dir"]), plain["task"]
    output = Path(task["output"] or folder / f"pairs_{task['format']}").expanduser()
    stage = preference_stage(cfg)
    with run_log(folder):
        pairs = _pairs(stage, plain, folder)
        done = export_pairs(pairs, output, task["format"], None if task["images"] == "auto" else task["images"])
        log.info(done.line())
        if not done.rows:
            raise ConfigError(f"task=export_pairs: no pair was written ({done.line()})")
    return {"export": {"pairs": done.pairs, "rows": done.rows, "images": done.images, "dropped": done.dropped}}


def _pairs(stage: Mapping[str, Any], plain: Mapping[str, Any], folder: Path) -> list[PreferencePair]:
    from parallax.records.pair_store import PairSet
    from parallax.tasks.memory_forecast import explained_generation
    from parallax.tasks.parts import make_datamodule, make_policy, pick_device

    source = build(stage["data"], "data")
    if plain["task"]["pairs"] is not None:
        found = PairSet(_pair_set(Path(plain["task"]["pairs"]).expanduser()))
        images = {sample.id: sample.image for sample in source}

        def image_of(sample_id: str, name: str) -> Any:
            if sample_id not in images:
                raise ConfigError(
                    f"the pair set has the sample {sample_id!r} ({name}), and `data` has none of that id; give the `data` "
                    "settings of the run that built it"
                )
            return images[sample_id]

        return found.load(image_of)
    if getattr(source, "pairs", None) is not None:
        return list(source.pairs)
    policy = make_policy(
        plain, stage["lora"], adapter=plain.get("adapter"), device=pick_device(plain["trainer"]["accelerator"])
    )
    datamodule = make_datamodule(stage, plain, folder)
    with explained_generation(policy, stage["generation"]):
        datamodule.build_pairs(policy)
    return list(datamodule.pairs)


def _pair_set(folder: Path) -> Path:
    """The pair set in a folder: itself, or the one that a run folder's last preference stage points to."""
    if (folder / "manifest.json").is_file() and (folder / "pairs.parquet").is_file():
        return folder
    pointers = sorted(folder.glob("stages/**/pairs.json"), key=lambda file: file.stat().st_mtime)
    pointers = pointers or [file for file in (folder / "pairs.json",) if file.is_file()]
    if not pointers:
        raise ConfigError(
            f"task.pairs={folder} is neither a pair set nor a run folder with one (no stages/…/pairs.json)"
        )
    target = Path(json.loads(pointers[-1].read_text())["pair_set"])
    if not target.is_dir():
        raise ConfigError(
            f"{pointers[-1]} points to {target}, which is gone; leave task.pairs out to build the pairs again"
        )
    return target
