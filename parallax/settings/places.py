"""Where the configuration, the built-in models and the sweeps lie: beside the packages in a clone, inside one once installed.

A wheel carries `conf/`, `assets/` and `sweeps/` below `parallax/shipped/` (`[tool.hatch.build.targets.wheel.force-include]` in
pyproject.toml). Everything that asks where they are asks here.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]  # the folder our packages lie in: the clone, or site-packages
IS_CLONE = (PACKAGES / "conf" / "config.yaml").is_file()
ROOT = PACKAGES if IS_CLONE else PACKAGES / "parallax" / "shipped"
CONF = ROOT / "conf"
COMMAND = "python run.py" if IS_CLONE else "parallax"  # what people type


def set_environment() -> None:
    """Name the places for `${oc.env:…}` in conf/paths, and for the processes of this run; what the user has set stays."""
    os.environ.setdefault("PARALLAX_ROOT", str(ROOT))
    if not IS_CLONE:
        os.environ.setdefault("PARALLAX_CACHE", str(user_cache()))


def user_cache() -> Path:
    """The folder of this user's caches that is ours."""
    above = os.environ.get("XDG_CACHE_HOME")
    return (Path(above) if above else Path.home() / ".cache") / "parallax"


def locate(path: str | Path) -> Path:
    """The file or folder as named from here; where there is none, the one of that name that travels with the program."""
    here = Path(path).expanduser()
    return ROOT / here if not here.exists() and (ROOT / here).exists() else here
