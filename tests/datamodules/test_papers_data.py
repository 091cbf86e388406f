"""The papers' sources by their configuration files, on the committed fixtures in the layout of the official files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.formats.json_scan import BrokenFile
from datamodules.formats.llava_parts import SHORT_ANSWER

PAPERS = Path(__file__).parents[1] / "fixtures" / "papers"
Source = Callable[..., Any]


@pytest.fixture
def source(compose_config: Callable[..., DictConfig]) -> Source:
    def make(name: str, *overrides: str, folder: Path = PAPERS) -> Any:
        cfg = compose_config(f"data={name}", f"paths.data_dir={folder}", *overrides)
        return instantiate(OmegaConf.to_container(cfg, resolve=True)["data"], _convert_="all")  # type: ignore[index, call-overload]

    return make


@pytest.mark.parametrize(
    ("name", "samples"),
    [("seva_16k", 6), ("llava_665k", 11), ("stic_mixed_5k", 7), ("stic_coco_6k", 3), ("llava_instruct", 5), ("sima_17k", 5),
     ("csr_prompts_12k", 3), ("coco", 3)],
)  # fmt: skip
def test_every_source_finds_its_files_and_every_image(source: Source, name: str, samples: int) -> None:
    made = source(name)
    assert len(made) == samples and not made.set_aside
    assert all(sample.image.load().size == (64, 64) for sample in made)
    assert all("<image>" not in turn.question for sample in made for turn in sample.turns)
    assert len({sample.id for sample in made}) == samples


def test_seva_asks_two_clean_questions_of_a_book_and_one_of_a_text_image(source: Source) -> None:
    made = list(source("seva_16k"))
    assert Counter(sample.source for sample in made) == {"seva_16k/ocr_vqa": 4, "seva_16k/textcaps": 2}
    books = {sample.question for sample in made if sample.source.endswith("ocr_vqa")}
    assert books <= {"Who wrote this book?", "What is the title of this book?", "Is it a novel?"}
    signs = [sample.question for sample in made if sample.source.endswith("textcaps")]
    assert signs[0] == "Provide a one-sentence caption for the provided image.\nReference OCR token: STOP, 1"
    only = source("llava_665k", "data.parts={vg: 1, gqa: 1}")
    assert {s.question for s in only} == {f"What is on the left? {SHORT_ANSWER}", "Is the cross red?"}
    assert only.available == {"vg": 2, "gqa": 2} and only.left_out["not_sampled"] == 2


def test_stic_keeps_dialogues_whole(source: Source) -> None:
    made = source("stic_mixed_5k")
    assert Counter(len(sample.turns) for sample in made) == {1: 4, 2: 3}
    assert len(source("stic_mixed_5k", "data.parts.mixed.entries=2")) == 2


def test_simas_two_files_are_one_source_whose_ids_differ(source: Source) -> None:
    made = source("sima_17k")
    assert {sample.id.split("/")[0] for sample in made} == {"complex_reasoning_77k", "detail_23k"}
    assert all(sample.answer for sample in made)
    assert made.counted == {"complex_reasoning_77k.json": 3, "detail_23k.json": 2}
    drawn = {
        frozenset(s.id for s in source("sima_17k", "data.parts.instruct.entries=2", f"seed={seed}"))
        for seed in range(6)
    }
    assert len(drawn) > 1 and all(len(ids) == 2 for ids in drawn)


def test_csr_finds_its_numbered_images_in_either_coco(source: Source) -> None:
    first = [sample.image.describe() for sample in source("csr_prompts_12k")]
    assert first[0] == "COCO_train2014_000000000009.jpg"
    plain = source("csr_prompts_12k", f"data.image_root={PAPERS}/coco/train2017", "data.image_prefix=''")
    assert [s.image.load().tobytes() for s in plain] == [s.image.load().tobytes() for s in source("csr_prompts_12k")]


@pytest.mark.parametrize("end", [300, 1200, 2500])
def test_a_partial_file_is_named_with_its_line(source: Source, tmp_path: Path, end: int) -> None:
    folder = shutil.copytree(PAPERS, tmp_path / "papers")
    file = folder / "llava_v1_5_mix665k.json"
    text = file.read_text()[:end]
    file.write_text(text)
    with pytest.raises(
        BrokenFile, match=r"llava_v1_5_mix665k.json (cannot be read from row \d+ on \(line \d+|breaks off after row)"
    ):
        len(source("llava_665k", folder=folder))


def test_a_wrong_row_is_set_aside_with_file_row_and_what_was_expected(source: Source, tmp_path: Path) -> None:
    folder = shutil.copytree(PAPERS, tmp_path / "papers")
    file = folder / "llava_instruct" / "detail_23k.json"
    rows = json.loads(file.read_text())
    del rows[1]["conversations"]
    file.write_text(json.dumps(rows))
    made = source("llava_instruct", folder=folder)
    assert len(made) == 4
    assert [item.why for item in made.set_aside] == [
        "detail_23k.json, row 2: its conversations are missing or no list; a list of {from, value} is needed"
    ]
