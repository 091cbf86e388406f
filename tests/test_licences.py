"""The licences of what the program depends on are those of the table in docs/reliability.md, and all of them permissive."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation)\b")
COPYLEFT = re.compile(r"\b(A?GPL|GNU|MPL|EUPL|SSPL|proprietary|non-commercial)\b", re.I)


def names() -> list[str]:
    return [re.match(r"[\w.-]+", text)[0] for text in PROJECT["dependencies"]]  # type: ignore[index]


def licence(name: str) -> str:
    """As the installed package says it."""
    told = importlib.metadata.metadata(name)
    classifiers = [
        text.rpartition(" :: ")[2] for text in told.get_all("Classifier", []) if text.startswith("License ::")
    ]
    return (
        told.get("License-Expression") or " and ".join(classifiers) or str(told.get("License", "")).partition("\n")[0]
    )


def table() -> dict[str, str]:
    section = (ROOT / "docs" / "reliability.md").read_text("utf-8").partition("## Licences")[2]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+?) \|$", section, re.M))


def test_the_table_says_what_the_packages_say() -> None:
    assert table() == {name: licence(name) for name in names()}


def test_every_dependency_may_be_used_and_passed_on() -> None:
    assert all(PERMISSIVE.search(said) and not COPYLEFT.search(said) for said in table().values())


def test_the_oldest_versions_are_the_lower_ends_of_the_ranges() -> None:
    lines = [line for line in (ROOT / "constraints-oldest.txt").read_text().splitlines() if line[:1] != "#"]
    oldest = dict(line.removesuffix(".*").split("==") for line in lines)
    lower = {
        name: re.search(r">=\s*([\d.]+)", text)[1] for name, text in zip(names(), PROJECT["dependencies"], strict=True)
    }  # type: ignore[index]
    assert oldest == lower


@pytest.mark.slow
def test_the_oldest_versions_can_be_installed_together(tmp_path: Path) -> None:
    """With what the tests need, as `make install` asks for it. Resolved and not installed; needs uv and a package index."""
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    if not Path(uv).exists():
        pytest.skip("needs uv to resolve versions")
    words = ["pip", "compile", "--constraint", "constraints-oldest.txt", "--python-version", "3.11", "--extra", "dev"]
    done = subprocess.run(
        [uv, *words, "pyproject.toml", "-o", tmp_path / "all.txt"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode and "No solution" not in done.stderr:
        pytest.skip(f"no package index could be asked: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^([\w-]+)==([\w.]+)", (tmp_path / "all.txt").read_text(), re.M))
    assert found["torch"].startswith("2.6.") and found["transformers"].startswith("5.18.")
