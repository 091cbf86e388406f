"""LLaVA's format: every row accounted for, and SeVa's sampling and cleaning rules by hand-made cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.llava_json import LlavaJsonSource
from datamodules.formats.llava_parts import PARTS, SHORT_ANSWER, Part

Write = Callable[..., Path]


def entry(image: Any, *said: str, name: Any = None) -> dict[str, Any]:
    messages = [{"from": "gpt" if k % 2 else "human", "value": text} for k, text in enumerate(said)]
    return {"id": name, "image": image, "conversations": messages}


def test_an_entry_is_one_sample_with_all_its_turns(root: Path, write_json: Write) -> None:
    path = write_json([entry("gqa/images/1.jpg", "<image>\nWhat?", "A tower.", "Where?", "In China.", name="x1")])
    (sample,) = LlavaJsonSource(path, root)
    assert (sample.id, sample.source, sample.image.describe()) == ("x1", "llava_json", "gqa/images/1.jpg")
    assert [(t.question, t.answer) for t in sample.turns] == [("What?", "A tower."), ("Where?", "In China.")]
    assert sample.image.load().size == (64, 96)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("<image> What?", "What?"),
        ("Look at <image> and say what", "Look at and say what"),
        ("What?", "What?"),
        ("  <image>\n\nTwo\nlines  ", "Two\nlines"),
    ],
)
def test_the_placeholder_is_taken_out_wherever_it_stands(
    root: Path, write_json: Write, text: str, question: str
) -> None:
    (sample,) = LlavaJsonSource(write_json([entry("gqa/images/1.jpg", text, "A")]), root)
    assert sample.question == question


BAD = {
    "bad_row": [
        17, None, ["a"], {"image": "a.jpg"}, {"image": "a.jpg", "conversations": "text"}, {"image": "a.jpg", "conversations": []},
        {"image": "a.jpg", "conversations": ["text"]}, {"image": "a.jpg", "conversations": [{"from": "human", "value": 3}]},
        {"image": "a.jpg", "conversations": [{"from": "gpt", "value": "answer first"}]},
        {"image": "a.jpg", "conversations": [{"from": "martian", "value": "hello"}]},
    ],
    "no_image": [entry("", "Q", "A"), entry(5, "Q", "A")],
    "several_images": [entry("a.jpg", "<image><image>\nQ", "A"),
        entry("a.jpg", "<image>\nQ", "A", "<image>?", "B")],
    "bad_image": [entry("../a.jpg", "Q", "A"), entry("https://example.org/a.jpg", "Q", "A"), entry("a\x00.jpg", "Q", "A")],
    "empty_question": [entry("a.jpg", "<image>", "A"), entry("a.jpg", "Q", "A", "  ", "B")],
    "image_count": [entry(["a.jpg", "b.jpg"], "<image>Q", "A")],
}  # fmt: skip


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_every_row_is_used_left_out_or_set_aside_with_a_reason(root: Path, write_json: Write, name: str) -> None:
    good = [entry("gqa/images/1.jpg", "Q", "A", name=k) for k in range(3)]
    text_only = [{"id": "t", "conversations": [{"from": "human", "value": "Q"}]}, entry([], "Q", "A")]
    bad = [row for rows in BAD.values() for row in rows]
    if name.endswith("l"):
        bad = [row for row in bad if isinstance(row, dict)]
    source = LlavaJsonSource(write_json([good[0], *bad, *text_only, *good[1:]], name), root)
    assert len(source) == 3
    assert source.rows == len(source) + len(source.set_aside) + sum(source.left_out.values()) == 5 + len(bad)
    assert source.left_out == {"text_only": 2}
    expected = {reason: sum(row in bad for row in rows) for reason, rows in BAD.items()}
    assert Counter(item.reason for item in source.set_aside) == {k: v for k, v in expected.items() if v}
    first = source.set_aside[0]
    assert first.item == f"{name}:2" and first.why.startswith(f"{name}, row 2: it")


def test_several_images_and_a_system_text_are_part_of_the_dialogue(root: Path, write_json: Write) -> None:
    one, two = "gqa/images/1.jpg", "gqa/images/2.jpg"
    said = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "<image>\nHere <image>: the same?"}]
    said += [{"from": "gpt", "value": "No."}, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    (sample,) = LlavaJsonSource(write_json([{"id": "7", "images": [one, two], "conversations": said}]), root)
    assert [image.describe() for image in sample.images] == [one, two] and sample.opening[0].text == "Be brief."
    asked = sample.conversation()
    assert [type(part) is str for part in asked.messages[1].parts] == [False, True, False, True]
    assert (asked.question, sample.answer, sample.turns[1].question) == ("Here : the same?", "No.", "Why?")
    assert asked.with_question("What?").messages[1].parts == (*sample.images, "What?")


def test_the_picture_may_stand_under_images(root: Path, write_json: Write) -> None:
    row = entry("gqa/images/1.jpg", "<image>Q", "A")
    (plain,) = LlavaJsonSource(write_json([row]), root)
    (listed,) = LlavaJsonSource(write_json([{**row, "image": None, "images": [row["image"]]}]), root)
    assert listed == plain


def test_ids_stay_unique_and_stable(root: Path, write_json: Write) -> None:
    rows = [entry("gqa/images/1.jpg", "Q", "A", name=name) for name in ("a", "a", None, 7, "a~2", True)]
    path = write_json(rows)
    names = [sample.id for sample in LlavaJsonSource(path, root)]
    assert names == ["a", "a~2", "row3", "7", "a~2~5", "row6"]
    assert names == [sample.id for sample in LlavaJsonSource(path, root)]


def test_a_limit_takes_the_first(root: Path, write_json: Write) -> None:
    path = write_json([entry("gqa/images/1.jpg", "Q", "A", name=k) for k in range(9)])
    assert [s.id for s in LlavaJsonSource(path, root, limit=2)] == ["0", "1"]
    with pytest.raises(ValueError, match="limit=0 is not allowed"):
        LlavaJsonSource(path, root, limit=0)


def test_paths_that_do_not_exist_are_refused_in_words(root: Path, write_json: Write) -> None:
    with pytest.raises(FileNotFoundError, match="data.path .* does not exist"):
        LlavaJsonSource(root / "none.json", root)
    with pytest.raises(FileNotFoundError, match="data.image_root .* is no folder"):
        LlavaJsonSource(write_json([]), root / "none")


# -- SeVa's rules ------------------------------------------------------------------------------------------------------

OCR = [
    "Who wrote this?\n" + SHORT_ANSWER,
    "B. Author",
    "What is the\ntitle?\n" + SHORT_ANSWER,
    "T",
    "Is it a novel?",
    "Yes",
]


def test_ocr_vqa_gives_two_questions_without_suffix_on_one_line(root: Path, write_json: Write) -> None:
    path = write_json([entry("ocr_vqa/images/1.jpg", "<image>\n" + OCR[0], *OCR[1:], name=k) for k in range(40)])
    samples = list(LlavaJsonSource(path, root, {"ocr_vqa": None}))
    assert len(samples) == 80 and {s.source for s in samples} == {"llava_json/ocr_vqa"}
    questions = Counter(s.question for s in samples)
    assert set(questions) == {"Who wrote this?", "What is the title?", "Is it a novel?"}
    assert min(questions.values()) >= 15  # each is drawn with probability 2/3
    assert {s.question: s.answer for s in samples}["What is the title?"] == "T"
    assert len({s.id for s in samples}) == 80


def test_line_breaks_are_deleted_only_on_request_as_seva_does(root: Path, write_json: Write) -> None:
    path = write_json([entry("ocr_vqa/images/1.jpg", "<image>\n" + OCR[2], "T")])
    (clean,) = LlavaJsonSource(path, root, {"ocr_vqa": None})
    (fused,) = LlavaJsonSource(path, root, {"ocr_vqa": {"newlines": "delete"}})
    assert (clean.question, fused.question) == ("What is the title?", "What is thetitle?")


def test_textcaps_keeps_its_inner_line_break(root: Path, write_json: Write) -> None:
    text = "Provide a one-sentence caption.\nReference OCR token: STOP, 12"
    path = write_json([entry("textvqa/train_images/1.jpg", "<image>\n" + text, "A sign.")])
    for name in ("textcaps", "textvqa"):  # the same part under either name
        (sample,) = LlavaJsonSource(path, root, {name: 1})
        assert sample.question == text and sample.source == f"llava_json/{name}"


def test_vg_keeps_the_suffix_and_reads_the_placeholder_at_either_end(root: Path, write_json: Write) -> None:
    text = f"What is left?\n{SHORT_ANSWER}"
    rows = [entry("vg/VG_100K/1.jpg", f"<image>\n{text}", "A"), entry("vg/VG_100K/2.jpg", f"{text}\n<image>", "A")]
    assert {s.question for s in LlavaJsonSource(write_json(rows), root, {"vg": None})} == {
        f"What is left? {SHORT_ANSWER}"
    }


def test_gqa_is_cleaned_like_ocr_vqa() -> None:
    assert (
        PARTS["gqa"].clean(f"Is it\nred?\n{SHORT_ANSWER}")
        == PARTS["ocr_vqa"].clean(f"Is it red? {SHORT_ANSWER}")
        == "Is it red?"
    )


def test_so_many_dialogues_are_sampled_from_each_part(root: Path, write_json: Write) -> None:
    rows = [entry("ocr_vqa/images/1.jpg", *OCR, name=f"o{k}") for k in range(30)]
    rows += [entry("textvqa/train_images/1.jpg", "Caption it.", "A", name=f"t{k}") for k in range(30)]
    rows += [entry("coco/train2017/1.jpg", "What?", "A", name=f"c{k}") for k in range(5)]
    path = write_json(rows)
    source = LlavaJsonSource(path, root, {"ocr_vqa": 7, "textcaps": 12}, seed=1)
    assert Counter(s.source for s in source) == {"llava_json/ocr_vqa": 14, "llava_json/textcaps": 12}
    assert source.left_out == {"not_sampled": 23 + 18, "other_part": 5}
    assert source.rows == 65
    again = LlavaJsonSource(write_json(rows[::-1], "reversed.json"), root, {"ocr_vqa": 7, "textcaps": 12}, seed=1)
    assert {s.id for s in again} == {s.id for s in source}  # the draw hangs on ids, not on the order
    other = LlavaJsonSource(path, root, {"ocr_vqa": 7, "textcaps": 12}, seed=2)
    assert {s.id for s in other} != {s.id for s in source}


def test_a_question_that_is_nothing_but_the_suffix_is_set_aside(root: Path, write_json: Write) -> None:
    source = LlavaJsonSource(write_json([entry("gqa/images/1.jpg", SHORT_ANSWER, "A")]), root, {"gqa": None})
    assert len(source) == 0 and [item.reason for item in source.set_aside] == ["empty_question"]


def test_own_parts_need_a_prefix_and_wrong_ones_are_named(root: Path, write_json: Write) -> None:
    path = write_json([entry("gqa/images/1.jpg", "Q", "A")])
    (sample,) = LlavaJsonSource(path, root, {"mine": {"prefix": "gqa/", "questions": 1}})
    assert sample.source == "llava_json/mine"
    with pytest.raises(ValueError, match="data.parts.mine is not one of ocr_vqa, textcaps"):
        LlavaJsonSource(path, root, {"mine": 5})
    with pytest.raises(ValueError, match="data.parts.gqa has the key 'entry'; its keys are"):
        LlavaJsonSource(path, root, {"gqa": {"entry": 5}})
    with pytest.raises(ValueError, match="newlines is 'drop'"):
        Part("a/", newlines="drop")  # type: ignore[arg-type]
