"""The benchmarks' metrics as pure functions, on cases made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parallax.evaluation.choices import read_choice
from parallax.evaluation.coco_words import CocoWords, singular
from parallax.evaluation.files.amber import AmberWords, description_scores, yes_no_scores
from parallax.evaluation.files.mme import mme_scores, read_yes_no
from parallax.evaluation.math_answers import edit_distance, found_answer, in_form, math_vista_scores
from parallax.evaluation.pope import read_strictly
from parallax.evaluation.ratio import ratio
from parallax.evaluation.short_answers import chart_qa_scores, normalised, relaxed_equal, soft_accuracy
from parallax.records import Sample, Turn
from tests.evaluation.pictures import Picture

OPTIONS = {"A": "a red car", "B": "a car", "C": "a bus"}


def sample(name: str, answer: str, kind: str = "", **attributes: Any) -> Sample:
    return Sample(name, "test", Picture(name), (Turn("?", answer),), kind, None, attributes)


def values(scores: list[dict[str, tuple[float, float]]]) -> dict[str, float | None]:
    names = dict.fromkeys(name for one in scores for name in one)
    columns = {name: [one[name] for one in scores if name in one] for name in names}
    return {name: ratio([a for a, _ in pairs], [b for _, b in pairs]) for name, pairs in columns.items()}


@pytest.mark.parametrize(
    ("text", "letter", "published"),
    [
        ("B", "B", "B"),
        (" b ", "B", None),
        ("(C)", "C", None),
        ("B. a car", "B", "B"),
        ("C: a bus", "C", None),
        ("The answer is A.", "A", "A"),
        ("The correct option is (B), since it is blue.", "B", None),
        ("A bus", "C", None),  # an article, not the letter
        ("It is a red car.", "A", None),  # contains option B's text, but option A's is longer
        ("a car", "B", None),
        ("A car or a bus", None, None),  # two options
        ("Either (A) or (B)", None, None),
        ("I do not know", None, None),
        ("", None, None),
        ("D", None, None),  # not offered
        ("B</s>", "B", "B"),
        ("答案是C", "C", None),
    ],
)
def test_a_choice_is_read_by_letter_or_by_text(text: str, letter: str | None, published: str | None) -> None:
    assert read_choice(text, OPTIONS) == letter
    assert read_choice(text, OPTIONS, "published") == published


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The 2,000 dogs!", "2000 dogs"),
        ("Two men", "2 men"),
        ("dont know", "don't know"),
        ("U.S.", "us"),
        ("3.", "3"),
        ("3.5", "3.5"),
        ("coca-cola", "coca cola"),
        ("It's", "it 's"),
        ("none", "0"),
        ("A an the", ""),
    ],
)
def test_answers_are_normalised_as_the_evaluation_server_does(text: str, plain: str) -> None:
    assert normalised(text) == plain


def test_soft_accuracy_by_hand() -> None:
    assert soft_accuracy("dog", ["dog"] * 10) == 1.0 and soft_accuracy("cat", ["dog"] * 10) == 0.0
    assert soft_accuracy("Dog.", ["dog"] * 2 + ["cat"] * 8) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert soft_accuracy("dog", ["dog"] * 3 + ["cat"] * 7) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert soft_accuracy("two", ["2"] * 4 + ["3"] * 6) == 1.0
    assert soft_accuracy("yes", ["yes"]) == 1.0


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("41", "40", True), ("42.1", "40", False), ("38", "40", True), ("12%", "0.12", True), ("0.12", "12%", True),
        ("12", "12%", False), ("peru", "Peru", True), ("Peru.", "Peru", False), ("0", "0", True), ("0.0", "0", False),
    ],
)  # fmt: skip
def test_relaxed_correctness_allows_five_per_cent(said: str, truth: str, right: bool) -> None:
    assert relaxed_equal(said, truth) is right


def test_both_halves_of_chartqa_weigh_the_same() -> None:
    human = [sample(f"h{i}", "1", "human", weight=3 / 4) for i in range(2)]
    made = [sample("m", "1", "augmented", weight=3 / 2)]
    scores = [chart_qa_scores(s, a) for s, a in zip([*human, *made], ["1", "5", "1"], strict=True)]
    assert values(scores)["chartqa_accuracy"] == pytest.approx(0.75)  # mean of 0.5 and 1.0; pooled it would be 2 of 3


@pytest.mark.parametrize(
    ("response", "kinds", "choices", "precision", "form"),
    [
        ("There are 3 cups, so the answer is 7.", ("free_form", "integer"), (), 0, "7"),
        ("3 + 4 = 7", ("free_form", "integer"), (), 0, "7"),
        ("about 1,250.26 m", ("free_form", "float"), (), 1, "1250.3"),
        ("none of them", ("free_form", "integer"), (), 0, None),
        ("Answer: [1, 2]", ("free_form", "list"), (), 0, "[1, 2]"),
        ("The answer is (B)", ("multi_choice", "text"), ("circle", "square"), 0, "square"),
        ("a squre", ("multi_choice", "text"), ("circle", "square"), 0, "square"),
        ("It is the circle.", ("multi_choice", "text"), ("circle", "square"), 0, "circle"),
        ("B", ("multi_choice", "text"), ("4", "8"), 0, "8"),
        ("Answer: yes", ("free_form", "text"), (), 0, "yes"),
    ],
)
def test_mathvista_answers_are_found_and_brought_into_form(
    response: str, kinds: tuple[str, str], choices: tuple[str, ...], precision: int, form: str | None
) -> None:
    assert in_form(found_answer(response, *kinds, choices), *kinds, choices, precision) == form


def test_mathvista_counts_answers_it_cannot_find() -> None:
    asked = sample("1", "1.5", "geometry", question_type="free_form", answer_type="float", precision=1, choices=[])
    got = values([math_vista_scores(asked, "It is 1.52 m"), math_vista_scores(asked, "wide")])
    assert got["mathvista_accuracy"] == 0.5 and got["mathvista_parse_failures"] == 0.5
    assert got["mathvista_accuracy:geometry"] == 0.5
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "ab") == 2


def test_mme_adds_accuracy_and_accuracy_plus_over_subtasks() -> None:
    asked = [
        sample(f"{kind}{image}{truth}", truth, kind, group=f"{kind}{image}")
        for kind in ("existence", "count", "code_reasoning")
        for image in (0, 1)
        for truth in ("yes", "no")
    ]
    answers = ["Yes", "No", "Yes", "Yes", "yes.", "no, it is not", "No", "Yes", "Yes", "No", "hm", "No"]
    got = values(mme_scores(list(zip(asked, answers, strict=True))))
    # existence 3 of 4 and 1 of 2, count 2 of 4 and 1 of 2; code reasoning 3 of 4 and 1 of 2
    assert got["mme_perception_score"] == pytest.approx(100 * (0.75 + 0.5) + 100 * (0.5 + 0.5))
    assert got["mme_cognition_score"] == pytest.approx(100 * (0.75 + 0.5))
    assert got["mme_accuracy:existence"] == 0.75 and got["mme_accuracy_plus:existence"] == 0.5
    assert got["mme_parse_failures"] == pytest.approx(1 / 12)
    assert [read_yes_no(t) for t in ("Yes", "no way", "Well, yes", "")] == ["yes", "no", None, None]


def test_amber_descriptions_by_hand() -> None:
    words = AmberWords(
        {"cat": ["kitten", "pet"], "dog": ["puppy"], "sofa": ["couch"], "mat": [], "person": []}, frozenset({"person"})
    )
    scores = description_scores(
        "Two kittens, a puppy and a person on mats, near lamps.", ["cat", "sofa"], ["dog"], words
    )
    assert scores["amber_chair"] == (2, 4)  # kitten, puppy, person, mat: the puppy and the mat are not there
    assert scores["amber_cover"] == (1, 2) and scores["amber_cog"] == (1, 1) and scores["amber_hal"] == (1.0, 1.0)
    kinder = AmberWords(words.association, words.safe, lambda a, b: {a, b} == {"mat", "couch"})
    assert description_scores("a mat", ["sofa"], [], kinder)["amber_chair"] == (0, 1)
    assert description_scores("", ["cat"], ["dog"], words)["amber_hal"] == (0.0, 1.0)


def test_amber_questions_take_no_for_the_positive_answer() -> None:
    answers = [("No", "no"), ("Yes.", "no"), ("no, never", "yes"), ("Yes", "yes"), ("Perhaps", "no")]
    got = values([yes_no_scores(said, truth, "existence") for said, truth in answers])
    assert got["amber_accuracy"] == pytest.approx(2 / 5) and got["amber_precision"] == pytest.approx(1 / 2)
    assert got["amber_recall"] == pytest.approx(1 / 3) and got["amber_f1"] == pytest.approx(2 / 5)
    assert got["amber_f1:existence"] == got["amber_f1"] and got["amber_parse_failures"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("text", "yes", "parsed"),
    [
        ("Yes", True, True), ("NO!", False, True), ("no, there is a dog", False, True), ("I think yes", True, True),
        ("There is none", False, False), ("yes and no", True, True), ("It could be yes or no", False, False),
        ("Nothing", False, False), ("", False, False),
    ],
)  # fmt: skip
def test_the_strict_rule_guesses_nothing(text: str, yes: bool, parsed: bool) -> None:
    reading = read_strictly(text)
    assert (reading.parsed, reading.counted) == (parsed, parsed) and (not parsed or reading.yes is yes)


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("Two men and a woman ride buses.", ["person", "person", "bus"]),
        ("A baby elephant beside an adult bear.", ["elephant", "bear"]),
        ("The toilet seat is up; the seat of the toilet is white.", ["toilet", "toilet"]),
        ("A hot dog, wine glasses and a bow tie.", ["hot dog", "wine glass", "tie"]),
        ("Traffic lights; a stop sign; tennis rackets.", ["traffic light", "stop sign", "tennis racket"]),
        ("Grass, glass and a dress.", []),
        ("A dog's ball, skis and scissors.", ["dog", "sports ball", "skis", "scissors"]),
        ("train tracks and a passenger train", ["train"]),
        ("knives, sandwiches, mice, sheep", ["knife", "sandwich", "mouse", "sheep"]),
    ],
)  # fmt: skip
def test_coco_objects_are_found_by_the_word_rules_of_chair(text: str, objects: list[str]) -> None:
    assert CocoWords.read()(text) == objects


def test_our_table_knows_the_eighty_categories_and_singulars_are_its_words() -> None:
    names = CocoWords.read().names
    assert len(set(names.values())) == 80
    changed = {word for word in names if " " not in word and singular(word) not in names}
    assert not changed, f"the singular of these words is not in the table: {changed}"


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("a man-made lake", []), ("a car/truck", []), ("a fire-hydrant", []), ("Two TVs and a tv", ["tv", "tv"]),
        ("a man's car, a truck / a bus", ["person", "car", "truck", "bus"]), ("gas and its bus", ["bus"]),
    ],
)  # fmt: skip
def test_words_are_cut_where_the_official_script_cuts_them(text: str, objects: list[str]) -> None:
    assert CocoWords.read()(text) == objects


def test_ambers_words_are_found_as_amber_writes_them() -> None:
    words = AmberWords({"TV": ["screen"], "air-conditioning": [], "e-book": []}, safe=["Photo"])
    text = "A TV, two tvs, an e-book and the air-conditioning on the screens."
    assert words.mentions(text) == ["TV", "TV", "e-book", "air-conditioning", "screen"]
    assert description_scores(text, ["TV", "e-book"], ["air-conditioning"], words)["amber_cover"] == (2, 2)


def test_a_table_of_synonyms_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("car, auto\n")
    assert CocoWords.read().table == "our own table"
    assert CocoWords.read(tmp_path / "synonyms.txt").table.startswith("synonyms.txt (SHA-256 ")
