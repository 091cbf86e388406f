"""The task `export_pairs`: preference pairs in the formats of TRL, ms-swift, LLaMA-Factory and LLaVA.

    python run.py task=export_pairs method=seva aug.noise_steps=500 task.format=trl task.output=pairs_for_trl
    python run.py task=export_pairs task.pairs=outputs/<run> task.format=ms_swift task.output=pairs_for_swift
    python run.py task=export_pairs method=dpo_file data.path=theirs.json data.image_root=images task.format=llava

With `task.pairs` all that is needed stands in the run's folder. Without it the pairs are those of the method's first preference
stage: answers that an earlier run generated are found in the cache, so that nothing is generated twice. Ready-made pairs are
exported as they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from omegaconf import DictConfig, OmegaConf

from datamodules.formats.pair_export import export_pairs
from datamodules.source import Source
from parallax.models.devices import pick_device
from parallax.models.hub import can_upload, upload
from parallax.records.pair_store import PairSet, images_of
from parallax.records.plain_text import front_matter, markdown, markdown_table
from parallax.records.yaml_file import read_yaml
from parallax.reports.environment import without_secrets
from parallax.reports.run_log import run_log
from parallax.settings.build import build
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Stage, Task
from parallax.settings.left_by_runs import is_pair_set, pair_pointers
from parallax.settings.stages import preference_stage
from parallax.settings.targets import UnknownTarget
from parallax.tasks.memory_forecast import explained_generation
from parallax.tasks.parts import make_datamodule, make_policy

if TYPE_CHECKING:
    from parallax.records import PreferencePair

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("data", "model")

    format: Literal["trl", "ms_swift", "llama_factory", "llava"]
    images: Literal["auto", "embedded", "files", "paths"]
    pairs: str | None
    license: str | None
    push_to_hub: str | None
    output: str | None


def run(cfg: DictConfig) -> dict[str, Any]:
    """Write the pairs. Returns counts under `export`."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder, task = Path(config["paths"]["output_dir"]), config["task"]
    output = Path(task["output"] or folder / f"pairs_{task['format']}").expanduser()
    stage = preference_stage(cfg)
    if task["push_to_hub"] is not None:
        can_upload(task["push_to_hub"], "task.push_to_hub")
    with run_log(folder):
        made_by, pairs = _pairs_of_run(config) if task["pairs"] is not None else (config, _pairs(stage, config, folder))
        images = None if task["images"] == "auto" else task["images"]
        card = partial(data_card, made_by, task["format"], task["license"])
        done = export_pairs(pairs, output, task["format"], images, card)
        log.info(done.line())
        if not done.rows:
            raise ConfigError(f"task=export_pairs: no pair was written ({done.line()})")
        if task["push_to_hub"] is not None:
            log.info("uploaded: %s", upload(output, task["push_to_hub"], data=True))
    return {"export": {"pairs": done.pairs, "rows": done.rows, "images": done.images, "dropped": done.dropped}}


def _pairs_of_run(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[PreferencePair]]:
    """The configuration that built a pair set, and its pairs: of a run's folder its own, of a bare pair set this one."""
    folder = Path(config["task"]["pairs"]).expanduser()
    found, stage = _pair_set(folder)
    made_by = _config_of(folder) or dict(config)
    own = (made_by.get("stages") or {}).get(stage) or {}
    source = _source(own.get("data") or made_by["data"])
    image_of = images_of(source.pairs or source)

    def resolved(sample_id: str, name: str) -> Any:
        try:
            return image_of(sample_id, name)
        except KeyError:
            raise ConfigError(
                f"the pair set has the sample {sample_id!r} ({name}), and the data has none of that id and image; put the run's "
                f"data back where it was, or give its `data` settings beside the pair set {found}"
            ) from None

    return {**made_by, "data": own.get("data") or made_by["data"]}, PairSet(found).load(resolved)


def _config_of(folder: Path) -> dict[str, Any] | None:
    """What a run was configured with, where its folder says so."""
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    try:
        config = read_yaml(file)
    except ValueError as error:
        raise ConfigError(f"task.pairs={folder}: {error}") from error
    return config if isinstance(config, dict) and "data" in config else None


def _source(node: Mapping[str, Any]) -> Source:
    """A source from a run's own configuration. Raises ConfigError for one that is none of ours or cannot be made."""
    from hydra.errors import InstantiationException

    try:
        return build(node, "data")
    except (UnknownTarget, InstantiationException, OSError, ValueError) as error:
        raise ConfigError(f"the data of the run cannot be had again: {error.__cause__ or error}") from error


def _pairs(stage: Stage, config: Mapping[str, Any], folder: Path) -> list[PreferencePair]:
    source = build(stage.data, "data")
    if source.pairs is not None:
        return list(source.pairs)
    policy = make_policy(
        config, stage.lora, adapter=config["adapter"], device=pick_device(config["trainer"]["accelerator"])
    )
    datamodule = make_datamodule(stage, config, folder)
    with explained_generation(policy, stage.generation.batch_size, stage.generation.max_new_tokens):
        datamodule.build_pairs(policy)
    return list(datamodule.pairs)


def _pair_set(folder: Path) -> tuple[Path, str]:
    """The pair set in a folder, and the stage that built it: itself, or what a run's last preference stage points to."""
    if is_pair_set(folder):
        return folder, ""
    pointers = pair_pointers(folder)  # one at least: the check of the configuration has looked
    target = Path(json.loads(pointers[-1].read_text())["pair_set"])
    if not target.is_dir():
        raise ConfigError(
            f"{pointers[-1]} points to {target}, which is gone; leave task.pairs out to build the pairs again"
        )
    return target, pointers[-1].parent.name


USE = {
    "trl": """```python
from datasets import load_dataset

data = load_dataset("parquet", data_files="pairs.parquet", split="train")  # images inside: for TRL's DPOTrainer as it is
```""",
    "ms_swift": "`swift rlhf --rlhf_type dpo --dataset pairs.jsonl`, in this folder, so that it finds the images.",
    "llama_factory": "`dataset_dir: this/folder` and `dataset: pairs` (see `dataset_info.json`).",
    "llava": "`pairs.json` beside its images, for code that reads LLaVA's `conversations` and `rejected_conversations`.",
}


class Counted(Protocol):
    """How much a set holds."""

    pairs: int
    rows: int
    images: int


def data_card(config: Mapping[str, Any], form: str, licence: str | None, done: Counted) -> str:
    """The card of a set that was written.

    Args:
        config: resolved configuration of the run whose pairs these are.
        form: one of the export's formats.
        licence: of the set, as the hub names licences; None says that it is not stated.
    """
    config = without_secrets(config)
    method, model, data = (config.get(key) or {} for key in ("method", "model", "data"))
    given = str(data.get("_target_") or "").endswith("PreferenceFileSource")
    front = {
        "license": licence or "unknown",
        "task_categories": ["image-text-to-text"],
        "tags": ["preference-optimisation", str(method.get("name", "pairs"))],
    }
    answers = (
        "The answers are those of the file the pairs were read from."
        if given
        else "The rejected answers, and the chosen ones where the data has none, are of the model "
        f"{markdown(model.get('name'))} ({markdown(model.get('path'))})."
    )
    rows = {
        "method": method.get("name"),
        "source": f"{data.get('name') or data.get('_target_')}" + (f", {data['path']}" if data.get("path") else ""),
        "model": model.get("name"),
        "pairs": f"{done.pairs:,}",
        "rows": f"{done.rows:,}",
        "images": f"{done.images:,}",
        "licence": licence or "not stated; the licences of the images, of the questions and of the model apply",
    }
    return (
        "\n\n".join(
            [
                front_matter(front),
                f"# Preference pairs: {markdown(method.get('name'))}",
                f"Pairs of a better and a worse answer to the same question about the same images. {answers}",
                markdown_table(["", ""], list(rows.items())),
                "A pair with several rejected answers takes as many rows, which say by `negative` which of them they hold.",
                "## How to read it\n\n" + USE[form],
            ]
        )
        + "\n"
    )
