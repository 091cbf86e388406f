"""Foreseen errors come as one sentence; those that nobody foresaw keep their trace."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from parallax.records.skipped import SetAside, SkippedLog
from parallax.tasks.error_messages import sentence_of
from tests.typed import load_policy


def caught(act: object, *arguments: object, **named: object) -> BaseException:
    with pytest.raises(Exception) as error:
        act(*arguments, **named)  # type: ignore[operator]
    return error.value


def test_what_our_code_raises_on_purpose_is_its_own_sentence() -> None:
    error = caught(load_policy, {"path": "assets/nowhere"}, None)
    assert sentence_of(error) == str(error) and "is not a folder here" in str(error)
    too_many = caught(SkippedLog(None, 0.0, 10).add, SetAside("a", "b", "bad_image", "the image is torn."))
    assert "had to be put aside" in str(sentence_of(too_many))


def test_what_nobody_foresaw_is_told_with_its_trace() -> None:
    def of_another_package() -> None:
        raise ValueError("looks like a sentence")

    assert sentence_of(caught(of_another_package)) is None
    assert sentence_of(caught(SkippedLog, None, "much")) is None  # a TypeError inside our code
    assert sentence_of(caught(int, "x")) is None
    assert sentence_of(RecursionError("deep")) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x.ckpt"), r"the disk is full (/tmp/x.ckpt; "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota is used up. Nothing that was written"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "the disk is full"),
        (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), "the disk is full"),
        (
            OSError(errno.EROFS, "Read-only file system", "/cache/a"),
            "the file system is read-only: /cache/a. Choose other folders",
        ),
    ],
)
def test_a_disk_that_cannot_take_more_is_said_whoever_met_it(error: Exception, words: str) -> None:
    assert words in str(sentence_of(error))
    wrapped = RuntimeError("the logger failed")
    wrapped.__cause__ = error
    assert words in str(sentence_of(wrapped))


def test_a_folder_of_ours_is_not_taken_for_the_run_folder_that_hydra_makes(tmp_path: Path) -> None:
    """Not even where the code lies below a folder called hydra."""
    (tmp_path / "a_file").write_text("in the way")
    code = compile("def make(path): path.mkdir()", str(tmp_path / "hydra" / "ours.py"), "exec")
    names: dict[str, object] = {}
    exec(code, names)
    assert sentence_of(caught(names["make"], tmp_path / "a_file")) is None


def test_errors_that_have_nothing_to_do_with_the_disk_are_not_blamed_on_it(tmp_path: Path) -> None:
    missing = caught((tmp_path / "nothing").read_text)
    assert sentence_of(missing) is None
    assert sentence_of(OSError("no such thing")) is None
