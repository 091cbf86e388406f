"""Text of others leaves as text: nothing in it moves a cursor, turns writing around, hides, or counts in a spreadsheet."""

import ast
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from parallax.records.plain_text import (
    code_span,
    front_matter,
    markdown,
    markdown_table,
    printable,
    quoted,
    say,
    spreadsheet_cell,
    terminal,
    without_surrogates,
)
from parallax.reports.model_card import converted_card, model_card
from parallax.reports.study import markdown as study_table
from parallax.tasks.export_pairs import data_card
from tests.faults import Injected

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "![x](http://h/x.png)", "a | b || c", "`` `code` ```",
    "one\n\n# two", "x\n---\nlicense: mit\n---", "x: y # z", "{pairs} {0} {{", "<!-- end study -->", "**b** _i_ a_b __c__",
    "$x$ ~~y~~", "&lt;&amp;", "\x1b[2J\x1b]0;owned\x07", "\u202egnp.exe", "null", "- x", "'\"); import os; os.system('x')  # ",
    "\\", "a\n```\nb", "[x]: http://h",
]  # fmt: skip
READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def as_shown(text: str) -> str:
    return " ".join(printable(text).split())


def tokens(document: str) -> list[Token]:
    return [token for block in READER.parse(document) for token in [block, *(block.children or [])]]


def refuse_markup(document: str) -> None:
    assert not {token.type for token in tokens(document)} & {
        "html_block",
        "html_inline",
        "link_open",
        "image",
        "s_open",
    }


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


@pytest.mark.parametrize("text", HOSTILE)
def test_text_within_markdown_is_text(text: str) -> None:
    for document in (f"# So {markdown(text)}", markdown_table(["a", "b"], [[text, 1]])):
        refuse_markup(document)
        assert as_shown(text) in ["".join(part.content for part in token.children or []).removeprefix("So ")
                                  for token in tokens(document)]  # fmt: skip
        assert not [token for token in tokens(document) if token.type in ("em_open", "strong_open", "code_inline")]
    (code,) = [token for token in tokens(f"So {code_span(text)}.") if token.type == "code_inline"]
    assert code.content == as_shown(text)
    written = front_matter({"license": text, "tags": [text, "x"]})
    assert (
        yaml.safe_load(written.strip("-")) == {"license": text, "tags": [text, "x"]} and "\n---\n" not in written[4:-3]
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_cards_show_names_of_others_as_text(text: str, injected: Injected) -> None:
    config: dict[str, Any] = {
        "method": {"name": text, "stages": [text]}, "model": {"name": text, "path": text}, "data": {"name": text, "path": text},
        "lora": {"enabled": True}, "loss": {"_target_": text},
    }  # fmt: skip
    done = SimpleNamespace(pairs=1, rows=2, images=3)
    cards = [
        model_card(config, {"pairs": {"kept": 1, "dropped": {text: 3}}}, text),
        converted_card(config, text, text),
        data_card(config, "trl", text, done),
    ]
    for card in cards:
        front, _, body = card.removeprefix("---\n").partition("\n---\n")
        assert set(yaml.safe_load(front)) <= {"library_name", "pipeline_tag", "tags", "license", "task_categories"}
        refuse_markup(body)
        code = [token.content for token in tokens(body) if token.type == "fence"]
        assert len(code) == 1 and not [n for n in ast.walk(ast.parse(code[0])) if "system" in (getattr(n, "attr", ""))]
    refuse_markup(
        study_table(
            {"title": text, "command": text, "metric": "m", "seeds": [1], "arms": {}, "failures": {text: [text]}}
        )
    )
    injected("attack: markup or control characters in names that cards show", told=3, says="shown as text")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_but_text_reaches_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.text import Text

    from parallax.tasks.chat import side_by_side

    console = terminal(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(text, markup=False, highlight=False)
    console.print(side_by_side(text, [("before", text), (text, "after")]))
    console.print(Text(text))
    say(text)
    shown = console.file.getvalue() + capsys.readouterr().out  # type: ignore[attr-defined]
    assert not [c for c in text if not c.isprintable() and c != "\n" and c in shown]


def test_all_that_leaves_for_a_terminal_leaves_there() -> None:
    """One border: nothing prints, and nobody makes a console, elsewhere."""
    found = []
    for file in (
        file
        for folder in ("parallax", "datamodules", "lightning_modules", "augment")
        for file in (ROOT / folder).rglob("*.py")
    ):
        if file.name not in (
            "plain_text.py",
            "document.py",
            "pair_picture.py",
        ):  # the latter two are tools of this repository
            calls = [node.func for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)]
            found += [file for call in calls if getattr(call, "id", getattr(call, "attr", "")) in ("Console",)
                      or getattr(call, "id", "") == "print"]  # fmt: skip
    assert not found


def test_a_line_is_whole_where_there_is_no_window() -> None:
    written = io.StringIO()
    terminal(file=written).print("word " * 40 + "end")
    assert len(written.getvalue().splitlines()) == 1
