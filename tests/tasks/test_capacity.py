"""`task=capacity` as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallax.tasks.capacity import run


def test_the_table_is_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], compose_config: Callable[..., Any]
) -> None:
    run(
        compose_config(
            "task=capacity", "task.models=[qwen25_vl_7b]", "task.gpus=[a100_80gb]", "task.setups=[lora,full_sharded]",
            "task.ranks=[64]", "task.negatives=[1]", f"paths.output_dir={tmp_path}",
        )
    )  # fmt: skip
    text = (tmp_path / "capacity.md").read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out
    assert (
        "### qwen25_vl_7b" in text
        and "| LoRA, one GPU | 64 | 1 |" in text
        and "| full fine-tuning, FSDP | – | 1 |" in text
    )
    assert "a bound, not a measurement" in text
