"""A rule decides and says the same thing."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval, Len, Lt
from hypothesis import given
from hypothesis import strategies as st

from parallax.settings.annotated_rules import rule_of
from parallax.settings.groups import Optim
from parallax.settings.ranges import (
    Ascending,
    Count,
    Exists,
    Natural,
    NotNegative,
    Of,
    OneOf,
    Pattern,
    Positive,
    PositiveShare,
    Share,
    Texts,
)
from parallax.settings.suggestions import closest, closest_keys, or_list

CASES: list[tuple[Any, list[Any], list[Any], str]] = [
    (Count, [1, 10**9], [0, 1.0, True, "1", None], "an integer of 1 or more"),
    (Annotated[int, Interval(ge=0, le=999)], [0, 999], [-1, 1000, 500.0], "an integer from 0 to 999"),
    (Count | Literal["auto"], [1, "auto"], ["all", 0], "an integer of 1 or more or auto"),
    (Positive, [1, 1e-9], [0, -1, float("nan"), float("inf"), True, "0.1"], "a number above 0"),
    (Annotated[float, Ge(0), Lt(0.5)], [0, 0.49], [0.5, -0.1], "a number of 0 or more and below 0.5"),
    (PositiveShare, [1, 0.5], [0, 1.01], "a number above 0 and at most 1"),
    (NotNegative | None, [None, 0], [-1], "a number of 0 or more, or null"),
    (Literal["a", "b"], ["a"], ["c", "", 1, None], "one of a, b"),
    (Literal["a"] | None, ["a", None], ["b"], "a, or null"),
    (Annotated[str, OneOf("auto", {"x": 1, "y": 2})], ["auto", "y"], ["z"], "one of auto, x, y"),
    (str, ["x"], ["", 1, None], "a text"),
    (Annotated[Path | str, Exists()], ["x", Path("x")], ["", 1, None], "a text"),
    (Annotated[str, Len(0)], ["x", ""], [1, None], "a text"),
    (bool, [True, False], [0, 1, "true", None], "true or false"),
    (tuple[Share, Share], [[0, 1], (0, 1)], [[0], [0, 2], 0], "a list of 2 items, each a number from 0 to 1"),
    (Annotated[tuple[Share, Share], Ascending()], [[0, 1], [1, 1]], [[1, 0]], "a list of 2 items, each a number from 0 to 1, "),
    (Annotated[list[Natural], Len(1)], [[0]], [[], [-1]], "a list of 1 or more, each an integer of 0 or more"),
    (tuple[float, str], [[1, "a"]], [["a", 1], [1]], "a list of 2 items: a number, then a text"),
    (Texts, [["a"], "a", []], [1, [1]], "a text, or a list, each a text"),
    (Count | dict[str, Count], [{"a": 1}, 3], [{"a": 0}, 0], "an integer of 1 or more, or a mapping from names"),
    (Literal["never"] | Annotated[str, Pattern(r"\d+_steps", "<n>_steps")], ["never", "5_steps"], ["x_steps"],
     "one of never, <n>_steps"),
    (Annotated[dict[str, Any], Of("augment.view.View")], [{"_target_": "x"}], [{"x": 1}, "x", 3, [], None],
     "a mapping with a `_target_`"),
    (Optim, [], [{"name": "adamw", "nme": 1}, {"name": "x"}, 3, None], "a mapping with name, lr"),
    (Any, [None, 1, "", {}], [], "anything"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "words"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_rule_allows_what_its_words_say(annotation: Any, good: list[Any], bad: list[Any], words: str) -> None:
    rule = rule_of(annotation)
    assert rule.words().startswith(words)
    assert all(rule.allows(value) for value in good)
    assert not any(rule.allows(value) for value in bad)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_no_value_makes_a_rule_fall_over(value: Any) -> None:
    for annotation, *_ in CASES:
        assert rule_of(annotation).allows(value) in (True, False)


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
