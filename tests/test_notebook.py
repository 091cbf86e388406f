"""The notebook runs from top to bottom, as Jupyter would run it in its own folder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "first_run.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_kept_without_outputs() -> None:
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS)


@pytest.mark.slow
def test_the_notebook_aligns_compares_and_loads_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec(compile(cell["source"].replace("outputs/first_run", str(tmp_path)), str(NOTEBOOK), "exec"), names)
    assert os.getcwd() == str(NOTEBOOK.parents[1])
    assert names["pairs"] and all(pair.chosen.text != pair.rejected[0].text for pair in names["pairs"])
    assert {"report.html", "results.json"} <= {path.name for path in (tmp_path / "noise_200").iterdir()}
    assert "noise_500" in (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert names["base"].strip() and names["aligned"].strip()
