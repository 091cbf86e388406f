"""Several pairs of one sample, and the balance of lengths over a whole set."""

from __future__ import annotations

from parallax.preference.caps import balance_lengths
from parallax.preference.selector import Outcomes
from parallax.preference.several_pairs import SeveralPairs
from parallax.records import Dropped, PreferencePair, Response
from tests.preference.test_selector import SAMPLE, candidates


def select(texts: str, scores: list[float], selector: SeveralPairs) -> Outcomes:
    return selector.select(SAMPLE, candidates(*texts.split("|")), scores)


def sides(made: Outcomes) -> list[tuple[str, str]]:
    assert isinstance(made, list)
    return [(pair.chosen.text, pair.rejected[0].text) for pair in made]


def test_every_two_answers_whose_scores_differ_enough_make_a_pair() -> None:
    made = select("a|b|c|d", [0, -1, -1, -3], SeveralPairs(64, min_margin=1))
    assert sides(made) == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")]
    assert sides(select("a|b|c|d", [0, -1, -1, -3], SeveralPairs(64, min_margin=3))) == [("a", "d")]
    assert all(pair.chosen.score > pair.rejected[0].score for pair in made)  # type: ignore[union-attr,operator]


def test_some_are_drawn_by_the_seed_and_stay_in_order() -> None:
    every = sides(select("a|b|c|d|e", [4, 3, 2, 1, 0], SeveralPairs(64)))
    drawn = {seed: sides(select("a|b|c|d|e", [4, 3, 2, 1, 0], SeveralPairs(2, seed=seed))) for seed in range(20)}
    assert all(len(pairs) == 2 and [p for p in every if p in pairs] == pairs for pairs in drawn.values())
    assert len({tuple(pairs) for pairs in drawn.values()}) > 5
    assert drawn[3] == sides(select("a|b|c|d|e", [4, 3, 2, 1, 0], SeveralPairs(2, seed=3)))


def test_equal_texts_count_once_and_contained_ones_can_be_left_out() -> None:
    assert sides(select("yes|yes| yes |no", [1, 1, 1, 0], SeveralPairs(64))) == [("yes", "no")]
    contained = select("It is 2|Final answer: it is 21|It is 7", [1, 0, 0], SeveralPairs(64, drop_contained=True))
    assert sides(contained) == [("It is 2", "It is 7")]


def test_a_sample_without_a_pair_says_why() -> None:
    for texts, scores, reason in (
        ("a|b", [1.0, 1.0], "small_margin"),
        ("a|b", [float("nan"), 1.0], "no_candidates"),
        ("2|12", [1.0, 0.0], "contained"),
        ("a|", [1.0, 0.0], "empty"),
    ):
        made = select(texts, scores, SeveralPairs(drop_contained=True, per_sample=2))
        assert isinstance(made, Dropped) and made.reason == reason, texts


def pair(chosen: int, rejected: int) -> PreferencePair:
    return PreferencePair("s", "x", SAMPLE.image, "?", Response("w " * chosen), (Response("w " * rejected),))


def test_pairs_with_much_shorter_chosen_answers_go_until_both_sides_are_as_long() -> None:
    pairs = [pair(10, 10), pair(12, 10), pair(8, 10), pair(2, 10), pair(1, 10)]
    kept, dropped = balance_lengths(pairs)
    assert kept == pairs[:3] and [gone.reason for gone in dropped] == ["unbalanced_length"] * 2


def test_longer_chosen_answers_stay_and_a_balanced_set_is_left_alone() -> None:
    longer = [pair(30, 10), pair(20, 10)]
    assert balance_lengths(longer)[0] == longer and balance_lengths([]) == ([], [])
    even = [pair(9, 10), pair(11, 10)]
    assert balance_lengths(even)[0] == even
