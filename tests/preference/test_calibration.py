"""CSR's calibrated scores: ranks, standard scores and sums by hand."""

from __future__ import annotations

import math

import pytest

from parallax.preference.judges.clip_calibrated import normalised_ranks, path_score, standard_scores, step_scores

LOG_PROBS, LENGTHS, COSINES = [-2.0, -6.0, -3.0], [4, 4, 3], [0.20, 0.30, 0.25]  # means -0.5, -1.5, -1.0


def test_the_best_of_n_has_rank_one_nth_and_the_worst_rank_one() -> None:
    assert normalised_ranks([0.1, 0.9, 0.5, 0.3]) == [1.0, 0.25, 0.5, 0.75]
    assert normalised_ranks([7.0]) == [1.0]
    assert normalised_ranks([2.0, 2.0, 1.0]) == [0.5, 0.5, 1.0]  # ranks 1 and 2 are shared: 1.5 / 3
    assert normalised_ranks([]) == []


def test_sibling_ranks_are_weighted_and_negated() -> None:
    """Language ranks 1/3, 1, 2/3; relevance ranks 1, 1/3, 2/3; cost 0.1·first + 0.9·second."""
    scores = step_scores(LOG_PROBS, LENGTHS, COSINES, weight=0.9, combine="sibling_rank")
    assert scores == pytest.approx([-(0.1 / 3 + 0.9), -(0.1 + 0.3), -(0.1 * 2 / 3 + 0.9 * 2 / 3)])


@pytest.mark.parametrize(("weight", "best"), [(0.0, 0), (1.0, 1)])
def test_the_weight_goes_from_language_alone_to_the_picture_alone(weight: float, best: int) -> None:
    for combine in ("raw_sum", "sibling_rank", "zscore"):
        scores = step_scores(LOG_PROBS, LENGTHS, COSINES, weight=weight, combine=combine)  # type: ignore[arg-type]
        assert max(range(3), key=scores.__getitem__) == best, combine


def test_the_raw_sum_is_the_papers_formula_in_which_the_probability_drowns() -> None:
    scores = step_scores([-2.0, -1.0], [4, 4], [0.25, -0.1], weight=0.9, combine="raw_sum")
    assert scores == pytest.approx([0.1 * math.exp(-2) + 0.9 * 25, 0.1 * math.exp(-1) + 0.0])


def test_standard_scores_have_mean_zero_and_deviation_one() -> None:
    assert standard_scores([1.0, 3.0]) == [-1.0, 1.0]
    assert standard_scores([5.0, 5.0]) == [0.0, 0.0]
    scores = step_scores([-1.0, -3.0], [1, 1], [0.1, 0.3], weight=0.25, combine="zscore")
    assert scores == pytest.approx([0.75 - 0.25, -0.75 + 0.25])


def test_without_pictures_only_language_counts() -> None:
    assert step_scores([-1.0, -2.0], [1, 1], None, weight=0.0, combine="sibling_rank") == [-0.5, -1.0]
    with pytest.raises(ValueError, match=r"an image weight of 0\.5 needs image relevances"):
        step_scores([-1.0], [1], None, weight=0.5, combine="sibling_rank")


def test_a_path_is_summed_and_divided_as_its_norm_says() -> None:
    assert [path_score([-1.0, -0.5], norm) for norm in ("none", "sentences", "sentences_plus_one")] == [
        -1.5,
        -0.75,
        -0.5,
    ]
    with pytest.raises(ValueError, match="no score; leave it out"):
        path_score([], "none")


def test_dividing_by_one_more_favours_short_paths() -> None:
    """Costs are negative, as in the released code."""
    short, long = [-0.5], [-0.5] * 4
    assert path_score(short, "sentences") == path_score(long, "sentences")
    assert path_score(short, "sentences_plus_one") > path_score(long, "sentences_plus_one")
