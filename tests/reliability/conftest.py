"""Faults that tests inject are counted: `make faults` makes the table of docs/reliability.md from the tests themselves."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Injected = Callable[[str, int, str], None]


@pytest.fixture
def injected(request: pytest.FixtureRequest) -> Injected:
    """`injected(kind, times, outcome)`: call it last, when the outcome has been asserted."""

    def note(kind: str, times: int, outcome: str) -> None:
        assert times > 0
        if file := os.environ.get("PARALLAX_FAULTS"):
            line = {"kind": kind, "times": times, "outcome": outcome, "test": request.node.nodeid.split("[")[0]}
            with Path(file).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    return note
