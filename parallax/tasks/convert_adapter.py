"""The task `convert_adapter`: adapters of LLaVA's code and of transformers before 4.52, for use here and with plain peft.

    python run.py task=convert_adapter model=llava15_7b task.input=llava-v1.5-7b-lora task.output=converted

Afterwards: `adapter=converted` with every other task, or `PeftModel.from_pretrained(model, "converted")`. No weights of the base
model are read; its names and shapes are enough to account for every key.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from parallax.models.adapter import CONFIG, WEIGHTS
from parallax.models.loading import loaded
from parallax.models.original_llava import convert
from parallax.models.true_size import architectures, config_of
from parallax.records.atomic import atomic_folder, atomic_write_text
from parallax.reports.model_card import converted_card
from parallax.reports.run_log import run_log
from parallax.settings.groups import Model, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    input: str
    output: str | None


def run(cfg: DictConfig) -> dict[str, Any]:
    """Write the converted adapter. Returns the counts of keys under `converted`."""
    from safetensors.torch import save_file

    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder, task = Path(config["paths"]["output_dir"]), config["task"]
    source = Path(task["input"]).expanduser()
    output = Path(task["output"] or folder / "adapter").expanduser()
    if not source.is_dir():
        raise FileNotFoundError(f"task.input={source} is no folder; download the adapter and give its folder")
    if output.exists():
        raise FileExistsError(f"task.output={output} is there already; name a folder that does not exist yet")
    model = Model.of(config["model"])
    with run_log(folder):
        made = convert(source, _shell(model), model.path)
        with atomic_folder(output) as temporary:
            save_file(made.state, str(temporary / WEIGHTS), metadata={"format": "pt"})
            atomic_write_text(temporary / CONFIG, json.dumps(made.config, indent=2, sort_keys=True) + "\n")
            atomic_write_text(temporary / "README.md", converted_card(config, source.name, made.line()))
        log.info("%s: %s", source.name, made.line())
        log.info("converted adapter in %s", output)
    return {"converted": dict(made.counts)}


def _shell(model: Model) -> Any:
    """The model without weights, by its own configuration; where that is not here, by what is known of its architecture."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    path, revision, known = model.path, model.commit, model.name in architectures()
    try:
        config = loaded(path, AutoConfig, revision=revision, local_files_only=known)
    except FileNotFoundError:
        if not known:
            raise
        config = config_of(str(model.name))
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)
