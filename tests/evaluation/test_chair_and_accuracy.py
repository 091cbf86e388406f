"""CHAIR and accuracy: counts by hand, both ways of counting, and suites that refuse data without truth."""

import pytest

from parallax.evaluation import AccuracySuite, ChairSuite
from parallax.evaluation.accuracy import accuracy_scores, same_text
from parallax.evaluation.coco_words import chair_counts, chair_scores
from tests.evaluation.pictures import sample
from tests.parts import part


def test_chair_of_one_description_by_hand() -> None:
    counts = chair_counts(["dog", "cat", "cat", "dog", "car"], {"dog", "car", "tree"})
    assert chair_scores(counts) == {"chair_i": (2, 5), "chair_s": (1.0, 1.0), "recall": (2, 3)}


def test_the_other_counting_takes_a_hallucinated_word_once_and_leaves_empty_descriptions_out() -> None:
    counts = chair_counts(["dog", "cat", "cat"], {"dog"}, "distinct_hallucinations")
    assert chair_scores(counts) == {"chair_i": (1, 3), "chair_s": (1.0, 1.0), "recall": (1, 1)}
    nothing = {"chair_i": (0, 0), "chair_s": (0.0, 0.0), "recall": (0, 0)}
    assert chair_scores(chair_counts([], {"dog"}, "distinct_hallucinations", empty=True)) == nothing
    assert chair_scores(chair_counts([], {"dog"}, empty=True)) == {**nothing, "chair_s": (0.0, 1.0), "recall": (0, 1)}


def test_a_description_without_any_object_does_not_hallucinate() -> None:
    assert chair_scores(chair_counts([], {"dog"}))["chair_i"] == (0, 0)


def test_repeated_objects_in_the_truth_count_once() -> None:
    assert chair_scores(chair_counts(["dog"], ["dog", "dog"]))["recall"] == (1, 1)


def test_an_unknown_counting_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="every_mention or distinct_hallucinations"):
        chair_counts([], [], "sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every_mention"):
        part(ChairSuite, [sample("a", objects=())], str.split, counting="sideways")  # type: ignore[arg-type]


def test_a_chair_suite_reads_answers_with_the_extractor_it_is_given() -> None:
    suite = part(ChairSuite, [sample("a", objects=("dog",))], str.split, prefix="coco/")
    assert suite.score(suite.samples[0], "dog cat") == {
        "coco/chair_i": (1, 2), "coco/chair_s": (1.0, 1.0), "coco/recall": (1, 1),
    }  # fmt: skip
    assert suite.truth(suite.samples[0]) == "dog"


def test_accuracy_is_counted_overall_and_per_kind() -> None:
    suite = part(AccuracySuite, [sample("a", "Red.", kind="colour"), sample("b", "Two.")])
    assert suite.score(suite.samples[0], " red ") == {"accuracy": (1.0, 1.0), "accuracy/colour": (1.0, 1.0)}
    assert suite.score(suite.samples[1], "three") == {"accuracy": (0.0, 1.0)}
    assert accuracy_scores("x", False) == {"accuracy": (0.0, 1.0), "accuracy/x": (0.0, 1.0)}


def test_plain_comparison_ignores_case_blanks_and_full_stop_only() -> None:
    assert same_text("", "  A  red\nball.", "a red ball") and not same_text("", "a red ball!", "a red ball")


def test_an_accuracy_suite_asks_the_data_what_is_the_same() -> None:
    suite = part(
        AccuracySuite,
        [sample("a", "Yes.", kind="exist")],
        same=lambda kind, said, true: kind == "exist" and said[0] == true[0],
    )
    assert suite.score(suite.samples[0], "Yeah")["accuracy"] == (1.0, 1.0)


def test_data_without_the_truth_a_suite_needs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'chair' needs a list of the objects .* 1 of 2 .* 'b'"):
        part(ChairSuite, [sample("a", objects=()), sample("b")], str.split)
    with pytest.raises(ValueError, match="needs a ground-truth answer"):
        part(AccuracySuite, [sample("a")])
    with pytest.raises(ValueError, match="has no samples"):
        part(AccuracySuite, [])
    with pytest.raises(ValueError, match="twice"):
        part(AccuracySuite, [sample("a", "x"), sample("a", "y")])
