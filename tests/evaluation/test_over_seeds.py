"""The effect over seeds: by-hand values, and intervals that behave as intervals."""

import numpy as np
import pytest

from parallax.evaluation.over_seeds import effect_over_seeds, t_quantile


def test_effect_of_a_hand_made_case() -> None:
    before = (np.array([1.0, 1.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0, 2.0]))  # 2 of 8
    after = [
        (np.array([1.0, 0.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0, 2.0])),  # 1 of 8
        (np.array([1.0, 1.0, 1.0, 0.0]), np.array([2.0, 2.0, 2.0, 2.0])),  # 3 of 8
    ]
    effect = effect_over_seeds(before, after, replicates=200)
    assert effect.before == 0.25
    assert effect.after_by_seed == (0.125, 0.375)
    assert effect.change == 0.0 and effect.relative == 0.0
    assert effect.change_low <= 0 <= effect.change_high


def test_a_clear_effect_excludes_zero_and_no_effect_does_not() -> None:
    rng = np.random.default_rng(0)
    ones = np.ones(2000)
    base = (rng.random(2000) < 0.5).astype(float)
    same = [((rng.random(2000) < 0.5).astype(float), ones) for _ in range(5)]
    better = [((rng.random(2000) < 0.3).astype(float), ones) for _ in range(5)]
    nothing, clear = (effect_over_seeds((base, ones), after) for after in (same, better))
    assert nothing.change_low < 0 < nothing.change_high
    assert clear.change_high < -0.1 and clear.relative_high < 0


def test_seed_luck_widens_the_interval() -> None:
    ones = np.ones(1000)
    base = np.tile([0.0, 1.0], 500)
    steady = [(np.tile([0.0, 0.8], 500), ones)] * 5
    shaky = [(np.tile([0.0, level], 500), ones) for level in (0.4, 0.6, 0.8, 1.0, 1.2)]

    def width(after):
        effect = effect_over_seeds((base, ones), after)
        return effect.change_high - effect.change_low

    assert width(shaky) > 2 * width(steady)


def test_what_cannot_be_compared_is_refused() -> None:
    item = (np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="same items"):
        effect_over_seeds(item, [(np.ones(4), np.ones(4))])
    with pytest.raises(ValueError, match="at least one"):
        effect_over_seeds(item, [])
    with pytest.raises(ValueError, match="zero"):
        effect_over_seeds((np.ones(3), np.zeros(3)), [item])


def test_intervals_over_three_seeds_cover_what_they_say() -> None:
    rng, ones, covered = np.random.default_rng(0), np.ones(400), 0
    base = (np.full(400, 0.5), ones)
    for trial in range(200):
        levels = 0.4 + 0.05 * rng.standard_normal(3)  # seeds differ far more than 400 items do
        after = [((rng.random(400) < level).astype(float), ones) for level in levels]
        effect = effect_over_seeds(base, after, replicates=200, seed=trial)
        covered += effect.change_low <= -0.1 <= effect.change_high
    assert covered >= 185  # 95 % of 200 is 190


def test_the_quantiles_are_students() -> None:
    assert [round(t_quantile(n), 4) for n in (1, 2, 3, 4, 9, 10, 30)] == [
        12.7062,
        4.3027,
        3.1824,
        2.7764,
        2.2622,
        2.2281,
        2.0423,
    ]
