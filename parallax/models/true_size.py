"""The configured models at true size without their weights: built on the meta device from `architectures/<name>.json`.

Shapes are all there is, so layers, targets and parameters can be counted in seconds and without a download. The files hold
what the checkpoints' own `config.json` say about sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "architectures"


def architectures() -> list[str]:
    """Names of the models that are described, those of conf/model."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def meta_model(name: str) -> Any:
    """The network of conf/model/<name>.yaml on the meta device. Raises ValueError for a name that is not described."""
    import torch
    from transformers import AutoModelForImageTextToText

    config = config_of(name)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def config_of(name: str) -> Any:
    """The transformers configuration of conf/model/<name>.yaml. Raises ValueError for a name that is not described."""
    from transformers import AutoConfig

    if name not in architectures():
        raise ValueError(f"the architecture of {name!r} is not described; there are {', '.join(architectures())}")
    settings = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return AutoConfig.for_model(settings.pop("model_type"), **settings)
