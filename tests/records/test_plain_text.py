"""Text of others leaves as text: nothing in it moves a cursor, turns writing around, hides, or counts in a spreadsheet."""

import pytest

from parallax.records.plain_text import printable, quoted, spreadsheet_cell, without_surrogates


@pytest.mark.parametrize(
    "code", [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0x200B, 0xFEFF, 0xD83D, 0xE0041]
)
def test_no_control_or_hidden_character_gets_through(code: int) -> None:
    said = printable(f"a{chr(code)}b\n\tc")
    assert chr(code) not in said and said.startswith("a\\") and said.endswith("b\n\tc")
    assert said.encode() and printable("é 漢字 😀 ∑") == "é 漢字 😀 ∑"


def test_a_quotation_is_one_short_line() -> None:
    assert quoted(" a\n b\x1b ") == r"a b\x1b" and len(quoted("x" * 10**7)) == 200


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("+x", "'+x"),
        ("-cmd", "'-cmd"),
        ("-1.5", "-1.5"),
        (-1.5, -1.5),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_no_cell_begins_a_formula(value: object, cell: object) -> None:
    assert spreadsheet_cell(value) == cell


def test_half_a_character_is_replaced() -> None:
    assert without_surrogates("a\ud83db") == "a?b" and without_surrogates("😀") == "😀"
