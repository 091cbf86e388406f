"""POPE: the published reading rules word for word, the two repairs, the scores, and the official files."""

import json
from pathlib import Path

import pytest
from PIL import Image

from parallax.evaluation import Evaluation, EvaluationItem, PopeSuite
from parallax.evaluation.pope import PopeFiles, Reading, category_weights, read_answer, read_label
from parallax.records.images import FileImage
from tests.evaluation.pictures import Picture, yes_no
from tests.parts import part

YES, NO, GUESSED = Reading(True, True), Reading(False, True), Reading(True, False)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", YES),
        ("yes, there is a dog.", YES),
        ("No", NO),
        ("no", NO),
        ("No, there is no dog in the image.", NO),  # commas are removed before words are compared
        ("There is not a dog.", NO),
        ("Yes. There is no cat, though.", YES),  # only the first sentence counts
        ("There is a dog. No doubt.", GUESSED),
        ("", GUESSED),
        ("NO", GUESSED),  # only these spellings are known, as published
        ("nothing there", GUESSED),  # a word, not a part of one
        ("There isn't any.", GUESSED),
        ("Nope", GUESSED),
        ("yes or no", NO),  # a no anywhere in the sentence wins
        ("No\nYes", GUESSED),  # only single spaces separate words
        ("No</s>", NO),  # repaired: special tokens go first
        ("<s> No</s><|im_end|>", NO),
        (" No ", NO),
        ("Yes<|endoftext|>", YES),
    ],
)
def test_answers_are_read_as_published_after_special_tokens_are_gone(text: str, reading: Reading) -> None:
    assert read_answer(text) == reading


def test_labels_are_yes_or_no_and_nothing_else() -> None:
    assert read_label("yes") and read_label("Yes.") and not read_label("no") and not read_label(" No.")
    with pytest.raises(ValueError, match="maybe"):
        read_label("maybe")


def measured(suite: PopeSuite, answers: list[str]) -> dict[str, float | None]:
    items = [
        EvaluationItem("pope", s.id, s.image.describe(), s.kind, s.question, suite.truth(s), a, True, suite.score(s, a))
        for s, a in zip(suite.samples, answers, strict=True)
    ]
    return {name: metric.value for name, metric in Evaluation.from_items(items, bootstrap_draws=10).metrics.items()}


def test_scores_of_a_confusion_table_by_hand() -> None:
    truths = ["yes"] * 5 + ["no"] * 5
    answers = ["Yes"] * 3 + ["No"] * 2 + ["Yes", "hm"] + ["No"] * 3  # TP 3, FN 2, FP 2, TN 3; one answer says neither
    values = measured(part(PopeSuite, [yes_no(i, t, "random") for i, t in enumerate(truths)]), answers)
    expected = {"accuracy": 0.6, "precision": 0.6, "recall": 0.6, "f1": 0.6, "yes_ratio": 0.5, "parse_failures": 0.1}
    for name, value in expected.items():
        assert values[f"pope_{name}"] == pytest.approx(value), name
        assert values[f"pope_random_{name}"] == pytest.approx(value), name


def test_a_model_that_always_says_no_has_no_precision_rather_than_an_error() -> None:
    values = measured(part(PopeSuite, [yes_no(0, "yes", "random"), yes_no(1, "no", "random")]), ["No", "No"])
    assert values["pope_precision"] is None and values["pope_recall"] == 0.0 and values["pope_f1"] == 0.0


def test_overall_accuracy_is_the_plain_mean_of_the_splits_even_when_they_differ_in_size() -> None:
    samples = [yes_no(i, "yes", "random") for i in range(4)] + [yes_no(i, "yes", "popular") for i in range(2)]
    values = measured(part(PopeSuite, samples), ["Yes", "Yes", "Yes", "No", "No", "No"])
    assert values["pope_random_accuracy"] == 0.75 and values["pope_popular_accuracy"] == 0.0
    assert values["pope_accuracy"] == pytest.approx(0.375)  # pooled it would be 0.5
    assert category_weights({"a": 3000, "b": 3000}) == {"a": 1.0, "b": 1.0}


def test_a_limited_suite_keeps_every_split() -> None:
    samples = [yes_no(i, "yes", split) for split in ("random", "popular", "adversarial") for i in range(10)]
    small = part(PopeSuite, samples).limited(6)
    assert [s.id for s in small.samples] == [f"{c}:{i}" for c in ("random", "popular", "adversarial") for i in (0, 1)]
    assert measured(small, ["Yes"] * 6)["pope_accuracy"] == pytest.approx(1.0)


def official_line(number: int, **changes: object) -> str:
    row = {
        "question_id": number,
        "image": "COCO_val2014_000000310196.jpg",
        "text": "Is there a snowboard in the image?",
    }
    return json.dumps({**row, "label": "yes" if number % 2 else "no", **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("random", "popular", "adversarial"):
        lines = [official_line(number) for number in range(1, 7)]
        (tmp_path / f"coco_pope_{split}.json").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def test_official_files_become_samples_of_a_suite(folder: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(folder / "COCO_val2014_000000310196.jpg")
    samples = part(PopeFiles, folder, str(folder))
    assert len(samples) == 18 and len({sample.id for sample in samples}) == 18
    first = samples[0]
    assert (first.id, first.question, first.answer) == ("pope:random:1", "Is there a snowboard in the image?", "yes")
    assert first.attributes["category"] == "random" and samples[17].attributes["category"] == "adversarial"
    assert first.image == FileImage(str(folder), "COCO_val2014_000000310196.jpg") and first.image.load().size == (8, 8)
    assert len(part(PopeSuite, samples).samples) == 18


def test_splits_can_be_picked_named_and_limited(folder: Path) -> None:
    assert len(PopeFiles(folder, str(folder), splits=["popular"], limit=4)) == 4
    named = PopeFiles({"popular": folder / "coco_pope_random.json"}, Picture, splits=["popular"])
    assert named[0].attributes["category"] == "popular" and isinstance(named[0].image, Picture)


def test_a_missing_split_is_named(folder: Path) -> None:
    (folder / "coco_pope_popular.json").unlink()
    with pytest.raises(FileNotFoundError, match="split 'popular'"):
        part(PopeFiles, folder, str(folder))
    with pytest.raises(FileNotFoundError, match="'adversarial'"):
        PopeFiles({"random": folder / "coco_pope_random.json"}, str(folder), splits=["adversarial"])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question_id": 1, "image"', "line 2: not JSON"),
        ('["a list"]', "line 2: expected an object"),
        (official_line(2, label="perhaps"), "line 2: .*perhaps"),
        (official_line(2, text=None), "line 2: 'text' is missing"),
    ],
)
def test_a_wrong_line_is_named_with_its_file_and_number(folder: Path, line: str, complaint: str) -> None:
    (folder / "coco_pope_random.json").write_text(official_line(1) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"coco_pope_random.json, {complaint}"):
        part(PopeFiles, folder, str(folder))


def test_an_empty_file_is_refused(folder: Path) -> None:
    (folder / "coco_pope_random.json").write_text("\n")
    with pytest.raises(ValueError, match="holds no questions"):
        part(PopeFiles, folder, str(folder))
