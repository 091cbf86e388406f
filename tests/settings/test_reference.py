"""The reference, a page for each group, is made from conf/ and is never behind it."""

import sys

import pytest

from parallax.settings.choices import choices, groups
from parallax.settings.comments import CONF
from parallax.settings.schema import FILE_GROUPS, group_keys, root

sys.path.insert(0, str(CONF.parent / "docs"))
from make_reference import BEGIN, PAGE, REFERENCE, file_name, page_with_reference, pages, reference


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_reference(page), "run `make docs`"
    assert pages() == {file.name: file.read_text("utf-8") for file in REFERENCE.glob("*.md")}, "run `make docs`"


def test_every_group_choice_and_key_is_in_the_reference() -> None:
    made = pages()
    text = "\n".join([reference(), *made.values()])
    for group in groups():
        assert made[file_name(group)].startswith(f"# `{group}`")
        assert f"(reference/{file_name(group)})" in text
        for name in choices(group):
            assert f"`{group}={name}`" in text
    for key, rule in group_keys(root()).items():
        if rule.kind not in ("component", "mapping"):
            assert f"`{key}`" in text or key.split(".")[0] in FILE_GROUPS, key


def test_a_page_without_the_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="has no line"):
        page_with_reference("# Nothing")
    assert page_with_reference(f"# Words\n\n{BEGIN}\nold").startswith(f"# Words\n\n{BEGIN}\n\n## Keys at the top")
