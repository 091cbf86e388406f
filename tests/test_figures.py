"""What the code is held to as a whole: one place for each default, typed parameters, imports at the top, no circles."""

from __future__ import annotations

from tests.figures import bare_any, circles, late_imports, second_defaults

# Parts that Python users make directly, where files of conf/ say the same (docs/architecture.md)
DIRECT = {"name", "split", "kinds", "by", "batch_size"}


def test_a_default_that_conf_repeats_is_one_for_python_users() -> None:
    again = [found for found in second_defaults() if found.rpartition(".")[2] not in DIRECT]
    assert not again, f"these arguments have a default in code and the same value in conf/; leave one out: {again}"


def test_parameters_say_what_they_are() -> None:
    assert len(bare_any()) < 60


def test_tasks_import_at_the_top_and_no_modules_import_each_other() -> None:
    assert len(late_imports()) < 15 and circles() == []
