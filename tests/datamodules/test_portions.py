"""A large file is read in portions: each row once, from the first step on without the others, and resumed where it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from datamodules.formats import portions
from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.preference import PreferenceDataModule
from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.proposers.ground_truth import Given
from parallax.preference.selector import BestAgainstRest
from parallax.settings.groups import Pairs
from parallax.tasks.training import fit_stage
from tests import typed
from tests.tasks.tiny_fits import STAGE, TRAINER, policy_and_pairs

ROWS = 50


def row(number: int, length: int = 1) -> dict[str, Any]:
    return {"idx": str(number), "question": f"What is in picture {number}?", "chosen": "A temple. " * length,
            "rejected": "A ship. " * length, "image": f"{number % 5}.png"}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Fifty pairs over five pictures, in a file that counts as large; every twentieth row is broken."""
    monkeypatch.setattr(portions, "LARGE", 30)
    for number in range(5):
        Image.new("RGB", (32, 32), (50 * number, 99, 0)).save(tmp_path / f"{number}.png")
    rows = [row(number) | ({"chosen": None} if number % 20 == 7 else {}) for number in range(ROWS)]
    ending = getattr(request, "param", "jsonl")
    path = tmp_path / f"many.{ending}"
    if ending == "jsonl":
        path.write_text("".join(f"{json.dumps(one)}\n\n" for one in rows))
        return path
    if ending == "pictures":
        rows = [one | {"image": {"bytes": (tmp_path / str(one["image"])).read_bytes(), "path": None}} for one in rows]
    path = tmp_path / "many.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4)
    return path


@pytest.mark.parametrize("file", ["jsonl", "parquet", "pictures"], indirect=True)
def test_portions_hold_each_row_once(file: Path) -> None:
    whole = PreferenceFileSource(file, file.parent)
    source = PreferenceFileSource(file, file.parent, portion=10, seed=3)
    found, bad = [], []
    parts = source.portions(4)
    assert parts is not None and parts.sizes == [4, 8, 10, 10, 9, 9]
    for number, size in enumerate(parts.sizes):
        source.take(parts.places(number))
        assert len(source.pairs) <= source.rows == size
        found += list(source.pairs)
        bad += [item.item for item in source.set_aside]
    assert sorted((pair.sample_id, pair.prompt) for pair in found) == sorted(
        (pair.sample_id, pair.prompt) for pair in whole.pairs
    )
    by_id = {pair.sample_id: pair.image.digest() for pair in whole.pairs}
    assert all(by_id[pair.sample_id] == pair.image.digest() for pair in found)
    assert sorted(bad) == sorted(item.item for item in whole.set_aside) and len(bad) == 3
    other = PreferenceFileSource(file, file.parent, portion=10, seed=4).portions(4)
    assert other is not None and other.places(2) != parts.places(2)


def test_rows_that_belong_together_are_read_at_once(file: Path) -> None:
    file.write_text("".join(json.dumps(row(0) | {"negative": 1 + number}) + "\n" for number in range(ROWS)))
    assert PreferenceFileSource(file, file.parent, portion=10).portions(4) is None
    assert PreferenceFileSource(file, file.parent, portion=10, limit=40).portions(4) is None


def module(file: Path, cache: Path, **pairs: Any) -> PreferenceDataModule:
    settings: Pairs = typed.pairs(**pairs)
    return PreferenceDataModule(
        PreferenceFileSource(file, file.parent, portion=20), Given(), ByConstruction(), BestAgainstRest(), cache_dir=cache,
        trainer=typed.trainer(**TRAINER), pairs=settings, show_progress=False,
    )  # fmt: skip


def test_rules_over_the_whole_set_read_it_whole(file: Path, tmp_path: Path) -> None:
    assert module(file, tmp_path / "cache").steps_of_portions() == [1, 2, 4, 3, 3]
    for rule in ({"max_per_source": 5}, {"length_balance": True}):
        assert module(file, tmp_path / "cache", **rule).in_portions is None


def test_a_cap_is_shared_out_over_the_portions(file: Path, tmp_path: Path) -> None:
    capped = module(file, tmp_path / "cache", max_pairs=30)
    assert capped.in_portions is not None and sum(capped.in_portions.sizes) == 30
    assert capped.caps == {"max_per_source": None, "max_pairs": 4}


def test_a_fit_takes_one_portion_after_the_other_and_resumes_in_the_middle(file: Path, tmp_path: Path) -> None:
    stage = typed.stage(**{**STAGE, "trainer": {**TRAINER, "max_epochs": 1}})

    def fit(folder: Path, resume: Path | None = None) -> tuple[dict[str, Any], list[torch.Tensor]]:
        policy, _ = policy_and_pairs(tmp_path)
        datamodule = module(file, tmp_path / folder.name / "cache")
        summary = fit_stage(policy, datamodule, stage, folder, resume_from=resume)
        return summary, [value.detach().clone() for _, value in policy.trainable_parameters()]

    summary, learned = fit(tmp_path / "whole")
    assert (summary["portions"], summary["segments"]) == (5, 5)
    assert sum(report["kept"] for report in summary["pair_reports"]) == ROWS - 3
    assert summary["steps"] == summary["total_steps"] >= 12
    middle = tmp_path / "whole" / "checkpoints" / "step-000007.ckpt"
    again, same = fit(tmp_path / "again", middle)
    assert again["steps"] == summary["steps"]
    assert all(torch.equal(a, b) for a, b in zip(learned, same, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_million_rows_are_ready_within_twenty_seconds_and_a_gigabyte(tmp_path: Path, ending: str) -> None:
    """The first portion of a million rows: Parquet of texts and paths, or JSON lines of 2 GB."""
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    rows, length, path = 1_000_000, 100, tmp_path / f"many.{ending}"
    if ending == "jsonl":
        line = json.dumps(row(0, length)).replace('"idx": "0"', '"idx": "%d"') + "\n"
        with open(path, "w") as stream:
            stream.writelines(line % number for number in range(rows))
        assert path.stat().st_size > 1.9e9
    else:
        schema = pyarrow.Table.from_pylist([row(0)]).schema
        with parquet.ParquetWriter(path, schema) as writer:
            for start in range(0, rows, 50_000):
                part = [row(number) | {"image": "0.png"} for number in range(start, start + 50_000)]
                writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))
    process = psutil.Process()
    before, began = process.memory_info().rss, time.process_time()
    source = PreferenceFileSource(path, tmp_path, portion=1024)
    parts = source.portions(16)
    assert parts is not None and parts.sizes[:7] == [16, 32, 64, 128, 256, 512, 1023] and sum(parts.sizes) == rows
    for number in (0, 6):
        source.take(parts.places(number))
        assert parts.sizes[number] - 100 < len(source) <= parts.sizes[number]
    assert time.process_time() - began < 20
    assert process.memory_info().rss - before < 1 << 30
