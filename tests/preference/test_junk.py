"""What counts as a sentence and what does not."""

from __future__ import annotations

import pytest

from parallax.preference.junk import junk_reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The top row has a red circle, a red star and a red cross.", None),
        ("There is a café with a naïve façade.", None),
        ("I see a cat and a dog and a bird and a cow and a hen and a pig and an ant.", None),
        ("ok", "short"),
        ("!", "short"),
        ("No.", None),
        ("42.", None),
        ("circle " * 6, "loop"),
        ("the sign the sign", None),
        ("aaaaaaaaaaa no", "run"),
        ("so . . . . . . . . . . .", "run"),
        ("one&nbsp;&nbsp;two", "debris"),
        ("a\nb\nc\nd\ne\nf\ng", "newlines"),
        ("There is a 猫 here.", "script"),
        ("There is a кот here.", "script"),
        ("There is a cat 😀 here.", "symbols"),
    ],
)
def test_a_sentence_is_junk_for_a_reason(text: str, reason: str | None) -> None:
    assert junk_reason(text) == reason


def test_the_script_of_the_question_is_welcome() -> None:
    assert junk_reason("这是一只猫。", "这是什么？") is None
