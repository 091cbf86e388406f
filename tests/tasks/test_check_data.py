"""`task=check_data` tells what is there, what is missing and what is broken, on one screen, without loading a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from parallax.settings.check import check
from parallax.settings.errors import ConfigError
from parallax.tasks import run_task

PAPERS = Path(__file__).parents[1] / "fixtures" / "papers"
Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(compose_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Run the task and give its JSON; `monkeypatch` keeps it from loading weights."""

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("check_data loaded a model")

    monkeypatch.setattr("parallax.models.loading.load_policy", never)

    def start(*overrides: str) -> dict[str, Any]:
        cfg = compose_config("task=check_data", f"paths.output_dir={tmp_path / 'run'}", *overrides)
        check(cfg)
        try:
            run_task(cfg)
        finally:
            file = tmp_path / "run" / "check_data.json"
            start.found = json.loads(file.read_text()) if file.is_file() else None  # type: ignore[attr-defined]
        return start.found  # type: ignore[attr-defined, no-any-return]

    return start


def test_a_sound_source_fits_one_screen(look: Look, capsys: pytest.CaptureFixture[str]) -> None:
    found = look("data=seva_16k", f"paths.data_dir={PAPERS}")["data"]
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24 and all(len(line) <= 130 for line in shown.splitlines())
    for words in ("6; left out: other_part 7 · text_only 1", "seva_16k/ocr_vqa 4 (of 2 dialogues)", "4 different, none missing",
                  "4 of them: all can be read", "Reference OCR token",
                  "ready; llava_v1_5_mix665k.json holds 12 of the 665,298"):  # fmt: skip
        assert words in shown, words
    assert found["complaints"] == [] and len(found["tokens"]) == 6


def test_tokens_are_those_the_policy_would_see(look: Look) -> None:
    from datamodules.formats.llava_json import LlavaJsonSource
    from parallax.models.encoding.token_counts import load_encoder
    from tests.typed import model

    assets = Path(__file__).parents[2] / "assets" / "tiny_llava"
    encoder = load_encoder(model(path=str(assets)))
    source = LlavaJsonSource(PAPERS / "llava_v1_5_mix665k.json", PAPERS)
    expected = [encoder.encode_prompt(sample.image.load(), sample.question).input_ids.numel() for sample in source]
    found = look("data=llava_665k", f"paths.data_dir={PAPERS}")["data"]
    assert sorted(found["tokens"]) == sorted(expected)


def test_missing_and_broken_images_are_counted_and_stop_a_run_before_it_starts(
    look: Look, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(PAPERS, tmp_path / "papers")
    (folder / "gqa/images/1.jpg").unlink()
    shutil.rmtree(folder / "vg")
    (folder / "ocr_vqa/images/2.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(
        ConfigError, match="about 4 of 11 samples cannot be used, more than pairs.max_skipped_share=0 allows"
    ):
        look("data=llava_665k", f"paths.data_dir={folder}", "pairs.max_skipped_share=0")
    shown = capsys.readouterr().out
    for words in ("11 different, 3 missing", "missing: gqa/images/1.jpg", "8 of them: 1 cannot be read",
                  "image 'ocr_vqa/images/2.jpg' is corrupt", "not ready"):  # fmt: skip
        assert words in shown, words


def test_a_few_that_a_run_would_leave_out_do_not_stop_it(look: Look, tmp_path: Path) -> None:
    folder = shutil.copytree(PAPERS, tmp_path / "papers")
    (folder / "gqa/images/1.jpg").unlink()
    found = look("data=llava_665k", f"paths.data_dir={folder}")["data"]
    assert found["complaints"] == [] and found["missing"] == 1


def test_what_a_run_on_pairs_would_drop_and_what_an_evaluation_has_too_is_said(look: Look, tmp_path: Path) -> None:
    row = {"image": "gqa/images/1.jpg", "prompt": "What? </s>", "chosen": "This.", "rejected": "That."}
    rows = [row, row, {**row, "rejected": "This."}, {**row, "image": None}]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = look("method=dpo_file", f"data.path={file}", f"data.image_root={PAPERS}")["data"]
    assert found["dropped"] == {"equal": 1} and found["left_out"] == {"text_only": 1} and found["complaints"] == []
    assert found["duplicates"] == 2 and found["control_tokens"] == {"</s>": 3} and found["images_each"] == {"1": 3}
    file.write_text(json.dumps(rows[2]))
    with pytest.raises(ConfigError, match="no sample is left once those"):
        look("method=dpo_file", f"data.path={file}", f"data.image_root={PAPERS}")


def test_every_source_of_the_stages_is_looked_at(look: Look, capsys: pytest.CaptureFixture[str]) -> None:
    found = look(
        "method=stic", "data=stic_coco_6k", "+data@stages.infuse.data=stic_mixed_5k", f"paths.data_dir={PAPERS}",
        "task.tokens=false",
    )  # fmt: skip
    assert list(found) == ["data", "stages.infuse.data"] and found["stages.infuse.data"]["samples"] == 7
    assert "train2014: 3, and the official one has 82,783" in capsys.readouterr().out


def test_pairs_that_come_ready_made_are_counted_by_their_rejected_answers(look: Look, tmp_path: Path) -> None:
    row = {"image": "gqa/images/1.jpg", "prompt": "What?", "chosen": "This.", "rejected": ["That.", "Those."]}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "rejected": "That."}))
    found = look("method=dpo_file", f"data.path={file}", f"data.image_root={PAPERS}")["data"]
    assert found["rejected"] == {"1": 1, "2": 1}


def test_what_is_not_there_at_all_is_said_in_words(look: Look, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data: data.path .*llava_v1_5_mix665k.json does not exist"):
        look("data=llava_665k", f"paths.data_dir={tmp_path}")
    with pytest.raises(ConfigError, match="data.path is not given"):
        look("data=llava_json")
    broken = tmp_path / "a.json"
    broken.write_text('[{"id": ')
    with pytest.raises(ConfigError, match="a.json cannot be read from row 1 on"):
        look("data=llava_json", f"data.path={broken}", f"data.image_root={tmp_path}")


def test_a_model_that_is_not_there_leaves_only_the_tokens_uncounted(look: Look) -> None:
    found = look("data=coco", f"paths.data_dir={PAPERS}", "model.path=./no_model")["data"]
    assert found["tokens"] == [] and "model.path=./no_model is not a folder here" in found["uncounted"]
