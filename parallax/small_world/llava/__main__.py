"""`python -m parallax.small_world.llava [config.yaml]`: make the model without Hydra, from the config file alone."""

import sys
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from parallax.small_world.llava.build import make_tiny_llava

DEFAULT = Path(__file__).resolve().parents[3] / "conf" / "tiny_llava" / "default.yaml"

if __name__ == "__main__":
    settings = OmegaConf.load(sys.argv[1] if len(sys.argv) > 1 else DEFAULT)
    make_tiny_llava(cast("dict[str, Any]", OmegaConf.to_container(settings, resolve=True)))
