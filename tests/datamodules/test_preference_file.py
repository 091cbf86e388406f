"""Ready-made pairs in every known format, told apart by their first row; bad rows set aside with file and row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from datamodules.formats.preference_file import PreferenceFileSource
from parallax.records import PreferencePair, Response
from parallax.records.images import FileImage
from parallax.records.pair_store import PairSet

Write = Callable[..., Path]
IMAGE = "gqa/images/1.jpg"


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def llava(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


WITH_IMAGE = [{"type": "image"}, {"type": "text", "text": "What?"}]
ROWS: dict[str, dict[str, Any]] = {
    "seva": {"question": "What?", "chosen": "A tower.</s>", "reject": "A cat.", "image_id": IMAGE},
    "stic": {
        "image": IMAGE, "image_corruption": True, "hallu_prompt": "Imagine",
        "chosen": [user("What?"), assistant("A tower.")], "rejected": [user("What?"), assistant("A cat.")],
    },
    "sima": {
        "id": "1", "image": IMAGE, "conversations": llava("<image>\nWhat?", "A tower."),
        "rejected_conversations": llava("<image>\nWhat?", "A cat."),
    },
    "csr": {
        "id": "1", "image": IMAGE,
        "conversations": llava("A chat. USER: <image>\nWhat? ASSISTANT:", "A tower."),
        "rejected_conversations": llava("A chat. USER: <image>\nWhat? ASSISTANT:", "A cat."),
    },
    "trl_plain": {"image": IMAGE, "prompt": "What?", "chosen": "A tower.", "rejected": "A cat."},
    "trl_conversational": {
        "images": [IMAGE], "prompt": [user(WITH_IMAGE)],
        "chosen": [assistant("A tower.")], "rejected": [assistant([{"type": "text", "text": "A cat."}])],
    },
    "trl_implicit_prompt": {
        "images": [IMAGE], "chosen": [user("What?"), assistant("A tower.")], "rejected": [user("What?"), assistant("A cat.")],
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", ["data.json", "data.jsonl"])
@pytest.mark.parametrize("form", ROWS)
def test_every_format_gives_the_same_pair(root: Path, write_json: Write, form: str, layout: str) -> None:
    source = PreferenceFileSource(write_json([ROWS[form]], layout), root)
    (pair,) = source.pairs
    assert (pair.prompt, pair.chosen.text, [r.text for r in pair.rejected]) == ("What?", "A tower.", ["A cat."])
    assert pair.image == FileImage(str(root), IMAGE) and pair.chosen.token_ids is None
    assert source[0].question == "What?" and source[0].answer == "A tower." and len(source) == 1


def test_several_rejected_answers_become_k_negatives(root: Path, write_json: Write) -> None:
    plain = ROWS["trl_plain"] | {"rejected": ["A cat.", "A dog."]}
    talks = ROWS["trl_conversational"] | {"rejected": [[assistant("A cat.")], [assistant("A dog.")]]}
    for row in (plain, talks):
        (pair,) = PreferenceFileSource(write_json([row]), root).pairs
        assert [r.text for r in pair.rejected] == ["A cat.", "A dog."]


BAD = [
    (ROWS["seva"] | {"question": "<image>"}, "empty_question"),
    (ROWS["seva"] | {"image_id": "../1.jpg"}, "bad_image"),
    (ROWS["seva"] | {"image_id": 3}, "bad_row"),
    (ROWS["seva"] | {"chosen": None}, "bad_row"),
    (ROWS["seva"] | {"question": "<image><image> Q"}, "several_images"),
    (17, "bad_row"),
]


def test_bad_rows_are_set_aside_with_file_and_row(root: Path, write_json: Write) -> None:
    source = PreferenceFileSource(write_json([ROWS["seva"], *[row for row, _ in BAD], ROWS["seva"]]), root)
    assert [pair.sample_id for pair in source.pairs] == ["row1", f"row{len(BAD) + 2}"]
    assert [item.reason for item in source.set_aside] == [reason for _, reason in BAD]
    assert source.set_aside[0].item == "data.json:2" and source.set_aside[0].why.startswith("data.json, row 2: ")
    assert source.rows == len(source) + len(source.set_aside)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROWS["sima"] | {"rejected_conversations": llava("Other?", "A")}, "different_prompts"),
        (ROWS["sima"] | {"conversations": llava("Q", "A")[:1]}, "bad_row"),
        (ROWS["trl_plain"] | {"rejected": []}, "bad_row"),
        (ROWS["trl_plain"] | {"prompt": None}, "bad_row"),
        (ROWS["trl_conversational"] | {"images": [IMAGE, IMAGE]}, "image_count"),
        (ROWS["trl_conversational"] | {"images": []}, "no_image"),
        (ROWS["trl_conversational"] | {"prompt": [user("Q"), {"role": "system", "content": "S"}]}, "bad_turns"),
        (ROWS["trl_conversational"] | {"prompt": [{"role": "tool", "content": "S"}, user("Q")]}, "unknown_role"),
        (ROWS["trl_conversational"] | {"prompt": [user([{"type": "image"}, {"type": "image"}])]}, "several_images"),
    ],
)
def test_what_a_pair_cannot_carry_is_set_aside(root: Path, write_json: Write, row: dict[str, Any], reason: str) -> None:
    source = PreferenceFileSource(write_json([row]), root)
    assert len(source) == 0 and [item.reason for item in source.set_aside] == [reason]


QUESTION = {"question": "What?", "chosen": "A tower.", "rejected": "A cat.", "image": IMAGE}
SHAREGPT = {"conversations": [{"from": "human", "value": "<image>What?"}], "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"}, "images": [IMAGE]}  # fmt: skip
SWIFT = {"messages": [user("<image>Find <ref-object>"), {"role": "assistant", "content": "A"}], "rejected_response": "B",
         "images": [IMAGE], "objects": {"ref": ["dog"], "bbox": [[1, 2, 3, 4]]}}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (QUESTION | {"question": None}, "its question is missing; a text, or messages with role and content, are needed"),
        (QUESTION | {"question": 7}, "its question is a number; a text, or messages with role and content, are needed"),
        (QUESTION | {"question": {"q": "What?"}}, "a message of it does not say by `role` or `from` whose it is"),
        (QUESTION | {"chosen": True}, "its chosen is true or false; a text, or messages with role and content, are needed"),
        (QUESTION | {"audios": ["a.wav"]}, "it has audios; texts and images can be read"),
        (ROWS["trl_plain"] | {"prompt": 7}, "its prompt is a number; a text, or messages with role and content, are needed"),
        (ROWS["trl_conversational"] | {"prompt": [user(None)]},
         "the content of a message is missing; a text or a list of parts is needed"),
        (SHAREGPT | {"system": ["Be brief."]}, "its system is a list; a text is needed"),
        (SWIFT, "its texts hold <bbox> or <ref-object>, which stand for its objects; write them out"),
        ({"prompt": None, "image": IMAGE, "completions": []}, "its prompt is missing; a text is needed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_reason_says_what_the_row_lacks(root: Path, write_json: Write, row: dict[str, Any], why: str) -> None:
    source = PreferenceFileSource(write_json([QUESTION, row]), root)
    assert len(source) == 1 and [item.why for item in source.set_aside] == [f"data.json, row 2: {why}"]


def test_a_text_may_stand_in_a_list_of_one_and_an_image_in_an_address_of_this_machine(
    root: Path, write_json: Write
) -> None:
    parts = [user([{"type": "image"}, "What?"])]
    rows = [QUESTION | {"question": ["What?"]}, ROWS["trl_conversational"] | {"prompt": parts},
            QUESTION | {"image": (root / IMAGE).as_uri().replace("/1.jpg", "/%31.jpg")}]  # fmt: skip
    assert [pair.prompt for pair in PreferenceFileSource(write_json(rows), root).pairs] == ["What?"] * 3


def test_trl_parquet_with_embedded_photographs_is_read(root: Path, tmp_path: Path, photo: Image.Image) -> None:
    text = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    features = datasets.Features(
        images=datasets.List(datasets.Image()),
        prompt=datasets.List(text | {"content": datasets.Json()}),  # what `datasets` makes of mixed contents
        chosen=datasets.List(text),
        rejected=datasets.List(text),
    )
    rows = [
        {
            "images": [photo],
            "prompt": [user(WITH_IMAGE)],
            "chosen": [assistant(f"A {k}.")],
            "rejected": [assistant("No.")],
        }
        for k in range(5)
    ]
    made = datasets.Dataset.from_list(rows, features=features)
    made.to_parquet(str(tmp_path / "pairs.parquet"), batch_size=2)
    source = PreferenceFileSource(tmp_path / "pairs.parquet")
    assert [pair.chosen.text for pair in source.pairs] == [f"A {k}." for k in range(5)], source.set_aside
    last = source.pairs[-1]
    assert last.prompt == "What?" and last.image.load().tobytes() == photo.tobytes()
    assert last.image.digest() == source.pairs[0].image.digest() and last.image.describe() == "pairs.parquet:5"


def test_parquet_with_plain_texts_and_paths_is_read(root: Path, tmp_path: Path) -> None:
    datasets.Dataset.from_list([ROWS["trl_plain"]] * 3).to_parquet(str(tmp_path / "a" / "0.parquet"))
    source = PreferenceFileSource(tmp_path / "a", root)
    assert len(source) == 3 and source.pairs[0].image.load().mode == "RGB"


def test_our_own_pair_sets_come_back_with_their_tokens(root: Path, tmp_path: Path) -> None:
    pair = PreferencePair(
        "s",
        "folder",
        FileImage(str(root), IMAGE),
        "Q?",
        Response("yes", (4, 2), {"a": 1}, 1.0),
        (Response("no", (5, 2)),),
    )
    PairSet(tmp_path / "set").write([pair])
    assert PreferenceFileSource(tmp_path / "set", root).pairs == [pair]
    (root / IMAGE).write_bytes((root / "gqa/images/2.jpg").read_bytes())
    source = PreferenceFileSource(tmp_path / "set", root)
    assert not source.pairs and "has changed since" in source.set_aside[0].why


def test_authors_absolute_paths_can_be_read_by_file_name(root: Path, write_json: Write) -> None:
    row = ROWS["sima"] | {"image": "/home/someone/coco/1.jpg"}
    (pair,) = PreferenceFileSource(write_json([row]), root / "gqa/images", file_names_only=True).pairs
    assert pair.image.load().mode == "RGB"


def test_an_unknown_format_is_refused_with_its_keys(root: Path, write_json: Write) -> None:
    with pytest.raises(ValueError, match=r"keys better, image, worse.*data\.format"):
        len(PreferenceFileSource(write_json([{"image": "a", "better": "b", "worse": "c"}]), root))
    with pytest.raises(ValueError, match="data.format is 'sevva'"):
        PreferenceFileSource(write_json([]), root, format="sevva")
    source = PreferenceFileSource(write_json([ROWS["seva"]]))
    assert not source.pairs and "set data.image_root" in source.set_aside[0].why
