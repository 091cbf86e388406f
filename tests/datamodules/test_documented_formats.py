"""Every example of a preference file in docs/data.md is read, and trains by the command; every key of its table exists."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from datamodules.formats.preference_file import PreferenceFileSource
from parallax.settings.check import check
from parallax.settings.command_line import prepare
from parallax.settings.schema import rule_at
from parallax.tasks import run_task

ROOT = Path(__file__).parents[2]
PAGE = (
    (ROOT / "docs" / "data.md").read_text("utf-8").split("## `data=preference_file`")[1].split("## What is written")[0]
)
FILES = dict(re.findall(r"^```json file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
READ = [name for name in FILES if not name.endswith(("dataset_info.json", "temples.jsonl"))]
PAIRS = {"trl.jsonl": 2, "symmpo.jsonl": 2}
MORE: dict[str, dict[str, Any]] = {
    "mine.jsonl": {"columns": {"question": "about.q", "chosen": "good", "rejected": "bad", "image": "pic"}},
}
WORDS = {
    "mine.jsonl": (
        "data.columns={question: about.q, chosen: good, rejected: bad, image: pic}", "pairs.num_negatives=2",
        "loss=multi_negative",
    ),
    "ms_swift_images.jsonl": ("loss=mdpo",),
}  # fmt: skip
KEYS = re.findall(r"`((?:[a-z_]+\.)?[a-z_0-9.]+)(?:=\w+)?`", "".join(
    line.rsplit("|", 2)[1] for line in PAGE.split("### Your flag there")[1].splitlines() if line.startswith("| ")
))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    where = tmp_path_factory.mktemp("formats")
    for number, name in enumerate(("coco/train2017/7.jpg", "ocr_vqa/images/1.jpg")):
        (where / "images" / name).parent.mkdir(parents=True)
        photo.rotate(90 * number, expand=True).save(where / "images" / name)
    for name, text in FILES.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    return where


@pytest.mark.parametrize("name", READ)
def test_an_example_is_read(folder: Path, name: str) -> None:
    source = PreferenceFileSource(folder / name, folder / "images", **MORE.get(name, {}))
    assert len(source) == PAIRS.get(name, 1) and not source.set_aside and not source.left_out
    assert {pair.chosen.text for pair in source.pairs} <= {"A temple.", "A book.", "The first."}


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_an_example_trains_two_steps_by_the_command(folder: Path, tmp_path: Path, name: str) -> None:
    """`run.py method=dpo_file data.path=…`, with what the page says beside the example."""
    words = [
        "method=dpo_file", f"data.path={folder / name}", f"data.image_root={folder / 'images'}", *WORDS.get(name, ()),
        "trainer=cpu", "trainer.max_epochs=2", "evaluation=none", "logger=none",
        f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=prepare(words, ROOT / "conf"))
    check(cfg)
    run_task(cfg)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["pairs"]["kept"] == PAIRS.get(name, 1) and results["steps"] == 2
    assert not results["pairs"]["dropped"] and not results["stages"]["align"]["bad_steps"]


@pytest.mark.slow
def test_the_table_names_flags_of_trl_that_exist() -> None:
    from trl import DPOConfig, ModelConfig, ScriptArguments

    rows = [
        line.split("|")[1] for line in PAGE.split("### Your flag there")[1].splitlines() if line.startswith("| `--")
    ]
    flags = {flag for row in rows for flag in re.findall(r"--(\w+)", row)}
    known = {field.name for made in (DPOConfig, ModelConfig, ScriptArguments) for field in dataclasses.fields(made)}
    assert len(flags) > 20 and flags <= known, flags - known


def test_the_table_names_keys_that_exist() -> None:
    assert len(KEYS) > 25 and {"loss.beta", "data.path", "trainer.micro_batch_size", "reference.mode"} <= set(KEYS)
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    parts = ("data.", "loss.")  # keys of parts: arguments of what the choice names
    text = "".join(path.read_text("utf-8") for path in (ROOT / "conf").rglob("*.yaml"))
    for key in KEYS:
        known = key in groups or (
            rule_at(key) is not None if not key.startswith(parts) else f"{key.split('.')[1]}:" in text
        )
        assert known, f"{key} is no key"
