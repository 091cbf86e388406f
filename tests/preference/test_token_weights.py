"""Weights of tokens by hand."""

import pytest

from parallax.preference.token_weights import ChangedSpans, Tail

THE, RED, BIG, CUP, IS, ON, A, TABLE, END = range(9)


def test_only_the_replaced_word_weighs_more() -> None:
    one, other = [THE, RED, CUP, IS, ON, A, TABLE, END], [THE, BIG, CUP, IS, ON, A, TABLE, END]
    # the run before the change, [THE], is shorter than three tokens and belongs to it
    assert ChangedSpans(5.0).weights([one, other]) == [[5, 5, 1, 1, 1, 1, 1, 1]] * 2
    assert ChangedSpans(5.0, min_match=1).weights([one, other]) == [[1, 5, 1, 1, 1, 1, 1, 1]] * 2


def test_insertions_count_only_where_one_side_is_enough() -> None:
    one, other = [CUP, IS, ON, A, TABLE, END], [CUP, IS, ON, A, RED, BIG, TABLE, END]
    assert ChangedSpans(3.0, min_match=1).weights([one, other]) == [[1] * 6, [1] * 8]
    assert ChangedSpans(3.0, min_match=1, both_sides=False).weights([one, other]) == [[1] * 6, [1, 1, 1, 1, 3, 3, 1, 1]]


def test_equal_answers_and_a_weight_of_one_change_nothing() -> None:
    assert ChangedSpans(4.0).weights([[1, 2, 3, 4], [1, 2, 3, 4]]) == [[1] * 4] * 2
    assert ChangedSpans(1.0).weights([[1, 2], [3, 4, 5]]) == [[1] * 2, [1] * 3]


def test_normalised_weights_sum_to_one() -> None:
    (one, other) = ChangedSpans(5.0, normalise=True).weights([[1, 2, 3, 9, 4, 5, 6], [1, 2, 3, 8, 7, 4, 5, 6]])
    assert sum(one) == pytest.approx(1) and sum(other) == pytest.approx(1)
    assert one[3] == pytest.approx(5 / 11) and one[0] == pytest.approx(1 / 11)


def test_changed_spans_are_those_of_two_answers() -> None:
    with pytest.raises(ValueError, match="2 rejected ones; use pairs.num_negatives=1"):
        ChangedSpans(2.0).weights([[1], [2], [3]])


def test_a_tail_begins_where_the_shortest_answer_ends() -> None:
    assert Tail(0.25).weights([[1, 2, 3, 4], [1, 2], [5, 6, 7]]) == [[1, 1, 0.25, 0.25], [1, 1], [1, 1, 0.25]]


def test_settings_name_everything_the_weights_depend_on() -> None:
    assert Tail(0.5).settings() == {"token_weights": "Tail", "weight": 0.5}
    assert ChangedSpans(2.0).settings()["min_match"] == 3
