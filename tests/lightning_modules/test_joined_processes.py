"""How the processes of a run meet, and what keeps them from doing the same run side by side."""

import pytest

from lightning_modules.trainer import joined_processes
from tests import typed


def test_a_lone_process_meets_nobody() -> None:
    assert joined_processes(typed.trainer(accelerator="cpu", devices=1)) is None
    assert joined_processes(typed.trainer(accelerator="cpu", devices="auto")) is None


def test_a_launcher_and_a_trainer_that_disagree_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"one of 4 processes, and trainer\.devices=1 × trainer\.num_nodes=1 makes 1"):
        joined_processes(typed.trainer(accelerator="cpu", devices=1))
