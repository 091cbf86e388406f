"""Runs side by side without a dashboard: a table on the screen, `compare.html` and `compare.csv`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from parallax.reports.comparison_numbers import compare
from parallax.reports.comparison_page import write_page
from parallax.reports.comparison_table import print_comparison, write_csv
from parallax.reports.run_folder import find_runs


def compare_runs(folders: Sequence[Path], out: Path | None, *, pictures: bool = False) -> Path:
    """Print the table, write `compare.html` and `compare.csv` into the folder `out`, return the path of the page.

    Args:
        folders: run folders, or folders of runs. Runs without results are listed with the reason.
        out: made if it is not there; None is the lowest folder that holds all the runs.
        pictures: also draw each metric against each numeric setting, `compare_<setting>.png`.

    Raises:
        FileNotFoundError: a folder is not there or holds no run.
    """
    found = find_runs(folders)
    comparison = compare(found)
    print_comparison(comparison)
    out = out or Path(
        os.path.commonpath([run.absolute() for run in found] if len(found) > 1 else [found[0].absolute().parent])
    )
    out.mkdir(parents=True, exist_ok=True)
    write_csv(comparison, out / "compare.csv")
    if pictures:
        from parallax.reports.comparison_pictures import draw_pictures

        draw_pictures(comparison, out)
    page = write_page(comparison, out / "compare.html")
    return page
