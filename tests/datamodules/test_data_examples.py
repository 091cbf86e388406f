"""Every example and every command in docs/data.md and docs/export.md runs as it stands, on files in small."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from parallax.preference.filters import REASONS
from parallax.settings.check import check
from parallax.settings.command_line import prepare
from parallax.tasks import run_task

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("data", "export")}
BLOCK = re.compile(r"^```(json|python)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^    python run\.py ((?:.*\\\n)*.*)$", re.MULTILINE)
SMALL = {  # added to a command, so that it takes seconds: by its task
    "align": ["trainer=cpu", "evaluation=none", "debug.max_steps=1", "debug.limit_samples=2", "generation.max_new_tokens=8",
              "pairs.drop_equal=false", "pairs.drop_empty=false"],
    "export_pairs": ["trainer=cpu", "debug.limit_samples=4", "generation.max_new_tokens=24"],
}  # fmt: skip
COMMANDS = [
    shlex.split(found.replace("\\\n", " "), comments=True) for page in PAGES.values() for found in COMMAND.findall(page)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    """What a reader of the page has: images, the files shown on it, and the official files in small."""
    where = tmp_path_factory.mktemp("reader")
    for name in ("coco/train2017/7.jpg", "ocr_vqa/images/1.jpg"):
        (where / "images" / name).parent.mkdir(parents=True)
        photo.save(where / "images" / name)
    for _, name, text in BLOCK.findall(PAGES["data"]):
        if name:
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_text(text)
    shutil.copytree(ROOT / "tests" / "fixtures" / "papers", where / "data")
    return where


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import datasets

    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "hf"))
    monkeypatch.delenv("PARALLAX_DATA", raising=False)
    yield folder


@pytest.mark.parametrize("page", list(PAGES))
def test_the_examples_of_a_page_run(here: Path, page: str) -> None:
    scripts = [text for language, _, text in BLOCK.findall(PAGES[page]) if language == "python"]
    assert len(scripts) >= (8 if page == "data" else 2)
    names: dict[str, object] = {}
    for script in scripts:
        exec(compile(script, f"docs/{page}.md", "exec"), names)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:80])
def test_the_commands_of_a_page_run(here: Path, tmp_path: Path, words: list[str]) -> None:
    task = next((word.removeprefix("task=") for word in words if word.startswith("task=")), "align")
    if task == "convert_adapter":
        words = [
            word for word in words if not word.startswith("model=")
        ]  # the built-in one, which an adapter is at hand for
        _published(here / "llava-v1.5-7b-lora")
    if "data.path=photos.parquet" in words or "data.path=shard-000000.tar" in words:
        _tables(here)
    given = {word.partition("=")[0] for word in words}
    more = [word for word in SMALL.get(task, []) if word.partition("=")[0] not in given]
    places = [f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}"]
    typed = prepare([*words, *more, "logger=none", *places], ROOT / "conf")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=typed)
    check(cfg)
    before = {file: file.stat().st_mtime_ns for file in here.rglob("*")}
    run_task(cfg)
    made = {file for file in here.rglob("*") if before.get(file) != file.stat().st_mtime_ns}
    assert made or any((tmp_path / "run").iterdir())  # a helper writes where it is told


def test_every_choice_of_data_is_on_the_page() -> None:
    lacking = [
        file.stem for file in (ROOT / "conf" / "data").glob("*.yaml") if f"`data={file.stem}`" not in PAGES["data"]
    ]
    assert not lacking and len(COMMANDS) >= 10


def test_every_reason_for_a_drop_is_explained() -> None:
    for reason in REASONS:
        assert f"`{reason}`" in PAGES["data"], reason


def _tables(folder: Path) -> None:
    """The files that the page's examples of tables write."""
    import tarfile

    from datasets import Dataset

    image = folder / "images" / "coco/train2017/7.jpg"
    Dataset.from_list([{"photo": Image.open(image), "q": "What is this?"}]).to_parquet(folder / "photos.parquet")
    with tarfile.open(folder / "shard-000000.tar", "w") as shard:
        shard.add(image, "000007.jpg")
        shard.add(folder / "rows.jsonl", "000007.json")


def _published(folder: Path) -> None:
    """An adapter for the built-in model under the names of the original LLaVA code."""
    import json

    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(ROOT / "assets" / "tiny_llava").text_config
    folder.mkdir()
    state = {}
    for layer in range(config.num_hidden_layers):
        name = f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_"
        state |= {
            f"{name}A.weight": torch.ones(2, config.hidden_size),
            f"{name}B.weight": torch.ones(config.intermediate_size, 2),
        }
    torch.save(state, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
