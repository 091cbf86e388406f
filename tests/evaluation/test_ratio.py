"""Ratios of sums: values by hand, intervals that behave as intervals, and no value where nothing is below the line."""

import numpy as np
import pytest

from parallax.evaluation.ratio import Metric, bootstrap, paired_difference, ratio


def test_a_ratio_is_the_sum_above_over_the_sum_below_not_the_mean_of_ratios() -> None:
    assert ratio([1, 0], [1, 3]) == 0.25  # the mean of the ratios would be 0.5


def test_nothing_below_the_line_gives_no_value_and_no_interval() -> None:
    assert ratio([0, 0], [0, 0]) is None
    assert bootstrap([0, 0], [0, 0]) == Metric(None, None, None, 2)
    assert bootstrap([], []) == Metric(None, None, None, 0)
    assert paired_difference(([1], [1]), ([0], [0])).value is None


def test_draws_with_an_empty_denominator_do_not_corrupt_the_interval() -> None:
    metric = bootstrap([1, 0, 0], [1, 0, 0], resamples=200)  # two thirds of the items say nothing
    assert (metric.value, metric.low, metric.high) == (1.0, 1.0, 1.0)


def test_the_interval_of_a_share_is_that_of_the_normal_approximation() -> None:
    right = np.r_[np.ones(300), np.zeros(700)]
    metric = bootstrap(right, np.ones(1000), resamples=4000, seed=1)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert metric.value == pytest.approx(0.3) and metric.n == 1000
    assert metric.low == pytest.approx(0.3 - half, abs=0.003) and metric.high == pytest.approx(0.3 + half, abs=0.003)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        metric = bootstrap((rng.random(150) < 0.4).astype(float), np.ones(150), resamples=300, seed=trial)
        hits += metric.low <= 0.4 <= metric.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    right = (np.arange(50) % 3 == 0).astype(float)
    first, same, other = (bootstrap(right, np.ones(50), resamples=100, seed=seed) for seed in (5, 5, 6))
    assert first == same and first != other and first.value == other.value


def test_items_of_one_group_are_drawn_together() -> None:
    right = np.repeat((np.arange(40) % 2).astype(float), 6)  # six questions an image, all right or all wrong
    groups = [f"image {i // 6}" for i in range(240)]
    alone, together = bootstrap(right, np.ones(240)), bootstrap(right, np.ones(240), groups)
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 2 * (alone.high - alone.low)  # √6 times in the limit


def test_large_sets_are_resampled_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    right = (np.arange(90) % 4 == 0).astype(float)
    whole = bootstrap(right, np.ones(90), resamples=64, seed=3)
    monkeypatch.setattr("parallax.evaluation.ratio._BLOCK", 90 * 7)
    assert bootstrap(right, np.ones(90), resamples=64, seed=3) == whole


def test_no_resamples_give_a_value_without_an_interval() -> None:
    assert bootstrap([1, 1], [1, 2], resamples=0) == Metric(2 / 3, None, None, 2)


def test_a_paired_difference_by_hand() -> None:
    change = paired_difference(([1, 1, 0, 0], [1, 1, 1, 1]), ([1, 0, 0, 0], [1, 1, 1, 1]), resamples=500)
    assert change.value == -0.25 and change.low <= -0.25 <= change.high
    relative = paired_difference(([1, 1, 0, 0], [1] * 4), ([1, 0, 0, 0], [1] * 4), relative=True)
    assert relative.value == -0.5
    assert paired_difference(([0, 0], [1, 1]), ([1, 0], [1, 1]), relative=True).value is None


def test_pairing_cancels_what_both_sides_share() -> None:
    rng = np.random.default_rng(2)
    before = (rng.random(400) < 0.5).astype(float)
    after = before.copy()
    after[np.flatnonzero(before == 1)[:20]] = 0  # 20 of 400 get worse, none better
    paired = paired_difference((before, np.ones(400)), (after, np.ones(400)))
    apart = paired_difference((before, np.ones(400)), (rng.permutation(after), np.ones(400)))
    assert paired.value == pytest.approx(-0.05) and paired.excludes_zero
    assert paired.high - paired.low < 0.6 * (apart.high - apart.low)


@pytest.mark.parametrize("groups", [None, ["a"]])
def test_sides_of_different_length_are_refused(groups: list[str] | None) -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_difference(([1], [1]), ([1, 1], [1, 1]), groups)
    with pytest.raises(ValueError, match="one shape"):
        bootstrap([1, 2], [1])
