"""Pairs go out in other programs' formats and come back the same. TRL trains on ours, we read TRL's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.formats.pair_export import FORMATS, export_pairs
from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.shapes.source import ShapesSource
from parallax.records import Message, PreferencePair, Response
from parallax.records.images import FileImage

ASSETS = Path(__file__).parents[2] / "assets" / "tiny_llava"
HOWS = [("trl", "embedded"), *((form, how) for form in FORMATS for how in ("files", "paths"))]


def pairs_of(root: Path, rejected: int = 1) -> list[PreferencePair]:
    names = ["gqa/images/1.jpg", "gqa/images/2.jpg", "coco/train2017/1.jpg", "gqa/images/1.jpg"]
    return [
        PreferencePair(
            f"s{number}",
            "some/source",
            FileImage(str(root), name),
            f"What is »{number}«?\nSay it in one line.",
            Response(f'Thing {number}, "quoted", with a snowman \u2603.\nAnd a second line.'),
            tuple(Response(f"Wrong {number}.{k}") for k in range(rejected)),
        )
        for number, name in enumerate(names)
    ]


def told(pairs: Sequence[PreferencePair]) -> list[Any]:
    """What a pair is, whoever wrote it down."""
    return [
        (p.sample_id, p.source, p.prompt, p.chosen.text, tuple(r.text for r in p.rejected), p.image.load().tobytes())
        for p in pairs
    ]


@pytest.mark.parametrize("rejected", [1, 3])
@pytest.mark.parametrize(("form", "images"), HOWS)
def test_pairs_come_back_the_same(root: Path, tmp_path: Path, form: str, images: Any, rejected: int) -> None:
    pairs = pairs_of(root, rejected)
    done = export_pairs(pairs, tmp_path / "out", form, images)
    assert (done.pairs, done.rows, done.images) == (4, 4 * rejected, 3)
    assert (tmp_path / "out" / "images").is_dir() == (images == "files")
    where = None if images == "embedded" else tmp_path / "out" if images == "files" else root
    back = PreferenceFileSource(tmp_path / "out" / done.file, image_root=where)
    assert told(back.pairs) == told(pairs) and not back.set_aside
    assert PreferenceFileSource(back.path, where, format=form).pairs == back.pairs
    assert [p.image.digest() for p in back.pairs] == [p.image.digest() for p in pairs]  # the files' own bytes


@pytest.mark.parametrize("form", FORMATS)
def test_conversations_come_back_the_same(root: Path, tmp_path: Path, form: str) -> None:
    pairs = with_conversations(root)
    pairs.append(replace(pairs[-1], sample_id="K", rejected=(Response("No."), Response("Never."))))
    pairs.append(replace(pairs[0], sample_id="other", rejected_images=(pairs[1].image,)))
    done = export_pairs(pairs, tmp_path / "out", form)
    kept = pairs if form == "ms_swift" else pairs[:-1]
    assert sum(done.dropped.values()) == len(pairs) - len(kept) and done.rows == len(kept) + 1
    back = PreferenceFileSource(tmp_path / "out", None if form == "trl" else tmp_path / "out")
    assert [pair.id for pair in back.pairs] == [pair.id for pair in kept] and not back.set_aside


def test_drawn_pictures_go_out_as_they_look(tmp_path: Path) -> None:
    drawn = [
        PreferencePair(s.id, s.source, s.image, s.question, Response(s.answer or ""), (Response("Nothing."),))
        for s in ShapesSource("pairs_habitual", 3)
    ]
    for form, images in (("trl", "embedded"), ("llava", "files")):
        done = export_pairs(drawn, tmp_path / form, form, images)  # type: ignore[arg-type]
        back = PreferenceFileSource(
            tmp_path / form / done.file, image_root=None if images == "embedded" else tmp_path / form
        )
        assert told(back.pairs) == told(drawn)
    with pytest.raises(ValueError, match="is no file of its own; use task.images=files or embedded"):
        export_pairs(drawn, tmp_path / "paths", "llava", "paths")


def test_the_files_are_in_the_form_their_programs_read(root: Path, tmp_path: Path) -> None:
    for form in ("ms_swift", "llama_factory", "llava"):
        export_pairs(pairs_of(root)[:1], tmp_path / form, form)
    asked, better, worse = "What is »0«?\nSay it in one line.", pairs_of(root)[0].chosen.text, "Wrong 0.0"
    own = {"id": "s0", "data_source": "some/source"}
    image = "images/gqa/images/1.jpg"
    assert json.loads((tmp_path / "ms_swift" / "pairs.jsonl").read_text()) == {
        **own,
        "messages": [{"role": "user", "content": f"<image>{asked}"}, {"role": "assistant", "content": better}],
        "rejected_response": worse,
        "images": [image],
    }
    assert json.loads((tmp_path / "llama_factory" / "pairs.json").read_text()) == [
        {
            **own,
            "conversations": [{"from": "human", "value": f"<image>\n{asked}"}],
            "system": "",
            "chosen": {"from": "gpt", "value": better},
            "rejected": {"from": "gpt", "value": worse},
            "images": [image],
        }
    ]
    info = json.loads((tmp_path / "llama_factory" / "dataset_info.json").read_text())["pairs"]
    assert (
        info["ranking"] is True
        and info["formatting"] == "sharegpt"
        and (tmp_path / "llama_factory" / info["file_name"]).is_file()
    )
    human = {"from": "human", "value": f"<image>\n{asked}"}
    assert json.loads((tmp_path / "llava" / "pairs.json").read_text()) == [
        {
            **own,
            "image": image,
            "conversations": [human, {"from": "gpt", "value": better}],
            "rejected_conversations": [human, {"from": "gpt", "value": worse}],
        }
    ]


def test_what_would_mislead_other_programs_is_left_out_and_counted(root: Path, tmp_path: Path) -> None:
    pairs = pairs_of(root)
    pairs[1] = replace(pairs[1], chosen=Response("Look at <image> again."))
    pairs[2] = replace(pairs[2], image=FileImage(str(root), "gqa/images/none.jpg"))
    done = export_pairs(pairs, tmp_path / "out", "llava")
    assert done.pairs == 2 and list(done.dropped.values()) == [1, 1]
    assert [p.sample_id for p in PreferenceFileSource(tmp_path / "out/pairs.json", tmp_path / "out").pairs] == [
        "s0",
        "s3",
    ]


def test_what_cannot_be_written_is_refused_in_words_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="llava names images by their paths; use task.images=files"):
        export_pairs(pairs_of(root), tmp_path / "a", "llava", "embedded")
    with pytest.raises(ValueError, match="formats are trl, ms_swift"):
        export_pairs(pairs_of(root), tmp_path / "a", "csv")
    assert not (tmp_path / "a").exists()
    export_pairs(pairs_of(root), tmp_path / "a", "trl")
    with pytest.raises(FileExistsError, match="is not empty"):
        export_pairs(pairs_of(root), tmp_path / "a", "trl")


def test_a_rejected_answer_never_joins_another_pair(root: Path, tmp_path: Path) -> None:
    export_pairs(pairs_of(root, 2), tmp_path / "out", "llava", "paths")
    file = tmp_path / "out" / "pairs.json"
    rows = json.loads(file.read_text())
    del rows[2]  # the first row of the second pair
    file.write_text(json.dumps(rows))
    source = PreferenceFileSource(file, root)
    assert [(p.sample_id, len(p.rejected)) for p in source.pairs] == [("s0", 2), ("s2", 2), ("s3", 2)]
    assert source.set_aside[0].why.endswith("it is rejected answer 2 of a pair, and the row before is of another pair")
    assert [p.sample_id for p in PreferenceFileSource(file, root, limit=1).pairs] == ["s0"]


def with_conversations(root: Path) -> list[PreferencePair]:
    """Two plain pairs, and two with a system text, an earlier turn and two images that stand between texts."""
    plain = pairs_of(root)
    asked = (
        Message("system", ("Be brief.",)),
        Message("user", (plain[0].image, "What is this?")),
        Message("assistant", ("A thing.",)),
        Message("user", ("And is ", plain[1].image, " the same?")),
    )
    return [*plain[:2], *(replace(pair, prompt="And is  the same?", messages=asked) for pair in plain[2:])]


@pytest.mark.parametrize("made", [pairs_of, pytest.param(with_conversations, marks=pytest.mark.slow)])
def test_trl_trains_two_steps_on_our_export_and_starts_at_the_logarithm_of_two(
    root: Path, tmp_path: Path, made: Callable[[Path], list[PreferencePair]]
) -> None:
    import math

    from datasets import load_dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    export_pairs(made(root), tmp_path / "out", "trl")
    data = load_dataset(
        "parquet", data_files=str(tmp_path / "out/pairs.parquet"), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert isinstance(data[0]["images"][0], Image.Image)
    settings = DPOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=2, max_steps=2, beta=0.1, learning_rate=1e-4,
        use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True, bf16=False,
        gradient_checkpointing=False, max_length=None,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(ASSETS), args=settings, train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(ASSETS),
    )  # fmt: skip
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and losses[0] == pytest.approx(math.log(2), abs=1e-3)
    assert any(not value.equal(before[name]) for name, value in trainer.model.named_parameters())


def test_we_read_what_trls_users_make_with_datasets(root: Path, tmp_path: Path) -> None:
    import datasets
    from trl.data_utils import prepare_multimodal_messages

    rows = [
        {
            "images": [pair.image.load()],
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen.text}],
            "rejected": [{"role": "assistant", "content": pair.rejected[0].text}],
        }
        for pair in pairs_of(root)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "strings.parquet")
    structured = [
        {
            **row,
            **{side: [{**m, "content": [{k: v for k, v in part.items() if k != "image"} for part in m["content"]]}
                      for m in prepare_multimodal_messages(row[side], row["images"] if side == "prompt" else None)]
               for side in ("prompt", "chosen", "rejected")},
        }
        for row in rows
    ]  # fmt: skip
    datasets.Dataset.from_list(structured).to_parquet(tmp_path / "parts.parquet")
    for name in ("strings", "parts"):
        back = PreferenceFileSource(tmp_path / f"{name}.parquet").pairs
        assert [row[2:] for row in told(back)] == [row[2:] for row in told(pairs_of(root))]


def test_ms_swifts_rejected_messages_are_read_too(root: Path, write_json: Any) -> None:
    asked = [{"role": "user", "content": "<image>What?"}]
    row = {
        "messages": [*asked, {"role": "assistant", "content": "This."}],
        "rejected_messages": [*asked, {"role": "assistant", "content": "That."}],
        "images": ["gqa/images/1.jpg"],
    }
    wrong = {
        **row,
        "rejected_messages": [{"role": "user", "content": "<image>Why?"}, {"role": "assistant", "content": "That."}],
    }
    source = PreferenceFileSource(write_json([row, wrong], "a.jsonl"), root)
    assert [(p.prompt, p.chosen.text, p.rejected[0].text) for p in source.pairs] == [("What?", "This.", "That.")]
    assert source.set_aside[0].reason == "different_prompts"
