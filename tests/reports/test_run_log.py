"""The log: a line per event, whole, whatever the width; everything in the file; nothing but warnings from a multirun's job."""

import logging
from pathlib import Path

import pytest

from parallax.reports.run_log import only_warnings, quiet_third_parties, run_log

log = logging.getLogger("parallax.tests")


def test_a_line_per_event_with_its_path_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = f"/a/folder/{'deep/' * 40}report.html"
    with run_log(tmp_path):
        log.info("report in %s", path)
        log.warning("two\nlines")
        log.debug("for the file")
    first, second = capsys.readouterr().out.splitlines()
    assert first[8:] == f" report in {path}" and second[8:] == " WARNING: two lines"
    assert "for the file" in (tmp_path / "run.log").read_text()


def test_libraries_that_were_imported_before_show_no_bars_either() -> None:
    from transformers.utils import logging as theirs

    theirs.enable_progress_bar()
    quiet_third_parties()
    assert not theirs.is_progress_bar_enabled()


def test_a_multiruns_job_keeps_its_news_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_warnings(), run_log(tmp_path):
        log.info("news")
        log.warning("look here")
    assert capsys.readouterr().out[8:] == " WARNING: look here\n"
    assert "news" in (tmp_path / "run.log").read_text()
