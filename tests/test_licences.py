"""The licences of what the program depends on are those of the table in docs/reliability.md, and all of them permissive."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

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
