"""What `make audit` says and with which status, for pip-audit's answers as it gives them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.audit import audit

PACKAGES = ["pillow==12.0.0", "torch==2.9.0"]
SKIPPED = "Dependency not found on PyPI and could not be audited: torch (2.9.0)"


def answers(*found: list[dict[str, Any]] | str) -> Any:
    """One answer after the other: the dependencies of pip-audit's JSON, or an error's text."""
    left = list(found)

    def ask(file: Path) -> subprocess.CompletedProcess[str]:
        assert file.read_text().startswith("pillow==12.0.0")
        now = left.pop(0)
        if isinstance(now, str):
            return subprocess.CompletedProcess([], 1, "", now)
        return subprocess.CompletedProcess([], 0, json.dumps({"dependencies": now, "fixes": []}), "")

    return ask


def clean(name: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": []}


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (([clean("pillow")], [clean("pillow"), clean("torch")]), 0, "2 of 2 packages looked up, 0 with known"),
        (("ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed",), 2, "Nothing was audited.*Could not connect"),
        (([{"name": "pillow", "skip_reason": SKIPPED}],), 2, "Nothing was audited.*not found on PyPI.*none of the 2"),
        (([clean("pillow")], [clean("pillow"), {"name": "torch", "skip_reason": SKIPPED}]), 2, "torch: could not be looked up"),
        (
            ([clean("pillow")], [{**clean("pillow"), "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}, clean("torch")]),
            1, "pillow 1: PYSEC-1, mended in 2",
        ),
    ],
)  # fmt: skip
def test_the_answer_is_said_in_words_and_in_the_status(
    found: Any, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(PACKAGES, answers(*found)) == status
    said = capsys.readouterr()
    assert re.search(words, said.out + said.err, re.DOTALL)
