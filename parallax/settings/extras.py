"""What to install where a package is missing: one place for the sentence, which reads our own metadata."""

from __future__ import annotations

import re
import sys

from parallax.settings.places import IS_CLONE, ROOT

NAME = "parallax-vlm"


def install(extra: str) -> str:
    """`pip install …` with the requirements of one of our extras, which needs no index that knows us.

    Raises:
        KeyError: there is no such extra.
    """
    wanted = _extras()[extra]
    return f"pip install {' '.join(repr(requirement) for requirement in wanted)}"


def install_package(package: str) -> str:
    """What to install for `package`: the requirements of our extra that names it, or the package itself."""
    named = re.compile(re.escape(package) + r"(?![\w-])", re.IGNORECASE)
    extra = next((name for name, needs in _extras().items() if name != "dev" and any(map(named.match, needs))), None)
    return install(extra) if extra else f"pip install {package}"


def missing(error: ModuleNotFoundError) -> str | None:
    """A sentence for a package that this Python has not; None for one of ours, which is a mistake of ours."""
    package = (error.name or "").split(".")[0]
    if not package or package in ("parallax", "augment", "lightning_modules", "datamodules"):
        return None
    if not IS_CLONE:
        return f"{sys.executable} has no package {package}, which {NAME} needs: pip install {package}"
    if (ROOT / ".venv" / "bin" / "python").is_file():
        return f"{sys.executable} has no package {package}. The environment is in .venv: .venv/bin/python run.py …"
    return f"{sys.executable} has no package {package}. `make install` makes .venv; then .venv/bin/python run.py …"


def _extras() -> dict[str, list[str]]:
    if IS_CLONE:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return dict(project["optional-dependencies"])
    from importlib import metadata

    found: dict[str, list[str]] = {}
    for line in metadata.requires(NAME) or ():
        requirement, _, marker = line.partition(";")
        if named := re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker):
            found.setdefault(named[1], []).append(requirement.strip())
    return found
