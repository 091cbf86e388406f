"""A rule decides and says the same thing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallax.settings.rules import FLAG, TEXT, Rule, choice, integer, list_of, mapping_of, number
from parallax.settings.suggestions import closest, closest_keys, or_list

CASES: list[tuple[Rule, list[Any], list[Any], str]] = [
    (integer(1), [1, 10**9], [0, 1.0, True, "1", None], "an integer of 1 or more"),
    (integer(0, 999), [0, 999], [-1, 1000, 500.0], "an integer from 0 to 999"),
    (integer(1, None, "auto"), [1, "auto"], ["all", 0], "an integer of 1 or more or auto"),
    (number(above=0), [1, 1e-9], [0, -1, float("nan"), float("inf"), True, "0.1"], "a number above 0"),
    (number(0, below=0.5), [0, 0.49], [0.5, -0.1], "a number of 0 or more and below 0.5"),
    (number(above=0, high=1), [1, 0.5], [0, 1.01], "a number above 0 and at most 1"),
    (number(0).or_null(), [None, 0], [-1], "a number of 0 or more, or null"),
    (choice("a", "b"), ["a"], ["c", "", 1, None], "one of a, b"),
    (choice("a").or_null(), ["a", None], ["b"], "a, or null"),
    (TEXT, ["x"], ["", 1, None], "a text"),
    (FLAG, [True, False], [0, 1, "true", None], "true or false"),
    (list_of(number(0, 1), length=2), [[0, 1]], [[0], [0, 2], (0, 1), 0], "a list of 2 items, each a number from 0 to 1"),
    (list_of(TEXT, or_one=True), [["a"], "a", []], [1, [1]], "a text, or a list, each a text"),
    (mapping_of(integer(1), or_one=True), [{"a": 1}, 3], [{"a": 0}, 0], "an integer of 1 or more, or a mapping from names"),
    (Rule("text", choices=("never",), pattern=r"\d+_steps", pattern_words="<n>_steps"), ["never", "5_steps"], ["x_steps"],
     "one of never, <n>_steps"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_rule_allows_what_its_words_say(rule: Rule, good: list[Any], bad: list[Any], words: str) -> None:
    assert rule.words().startswith(words)
    assert all(rule.allows(value) for value in good)
    assert not any(rule.allows(value) for value in bad)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_no_value_makes_a_rule_fall_over(value: Any) -> None:
    for rule, *_ in CASES:
        assert rule.allows(value) in (True, False)


def test_the_closest_name_comes_first_and_the_far_ones_not_at_all() -> None:
    assert closest("sevva", ["seva", "seva_multi", "dpo_file"])[0] == "seva"
    assert closest("mthod", ["method", "model", "data"]) == ["method"]
    assert closest("zzz", ["method"]) == []


def test_a_key_is_found_under_another_group_and_by_another_name() -> None:
    known = ["aug.noise_steps", "loss.beta", "optim.lr", "trainer.max_epochs"]
    assert closest_keys("noise_steps", known) == ["aug.noise_steps"]
    assert closest_keys("los.beta", known) == ["loss.beta"]
    assert closest_keys("learning_rate", known) == ["optim.lr"]
    assert closest_keys("quite.different", known) == []


def test_lists_are_said_in_words() -> None:
    assert or_list(["a"]) == "a" and or_list(["a", "b", "c"]) == "a, b or c"
