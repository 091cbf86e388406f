"""One point of each sweep file, started as `wandb agent` starts it, offline; what it logged is read back from W&B's file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from parallax.reports.dashboard import Wanted, build_report, build_workspace
from parallax.tasks.dashboard import specification
from tests.reports import wandb_file
from tests.reports.dashboard_names import names_in
from tests.settings.agent import agent_words, first_and_last

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.size=12", "trainer=cpu", "trainer.batch_size=4", "trainer.max_epochs=1", "evaluation.scenes=6",
    "evaluation.pope_scenes=1", "evaluation.bootstrap=20", "debug.max_steps=4",
)  # fmt: skip
KEY = "0123456789abcdef0123456789abcdef01234567"
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
QUICK = "noise_steps"


def numbers_logged(file: Path) -> dict[str, Any]:
    """The run's summary: the last value of every metric."""
    return wandb_file.summary(file)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[] if path.stem == QUICK else [pytest.mark.slow]) for path in FILES],
)
def test_a_point_runs_as_an_agent_starts_it_and_logs_what_the_sweep_looks_at(path: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    point = first_and_last(content)[1]
    words = agent_words(content, point)
    assert words[0] == "/usr/bin/env" and words[2] == "run.py"
    more = [*SMALL, f"paths.cache_dir={tmp_path / 'cache'}", "hydra.run.dir=run"]
    more += ["evaluation.every_n_steps=2"] if path.stem == "full" else []
    environment = {
        **os.environ, "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1w2e3", "WANDB_RUN_ID": f"run{path.stem}",
        "WANDB_API_KEY": KEY, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [words[0], sys.executable, str(ROOT / words[2]), *words[3:], *more],
        cwd=tmp_path, capture_output=True, text=True, timeout=900, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    file = wandb_file.only_file(tmp_path / "run")
    summary, config = numbers_logged(file), wandb_file.config(file)
    for key, value in point.items():
        node: Any = config
        for part in key.split("."):
            node = node[part]
        assert node == value or key == "aug"
    assert config["code"]["commit"] and config["model"]["name"] == "tiny_llava"

    metric = content["metric"]["name"]
    assert isinstance(summary[metric], float), f"{metric} is what the sweep looks at"
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert summary[metric] == results["after"][metric.removeprefix("eval/")]["value"]
    for name in ("eval/chair_i", "eval/accuracy", "eval/pope_accuracy", "margin", "pairs/kept"):
        assert isinstance(summary[name], int | float), name
    ways = {"best/chair_i": "min", "best/accuracy": "max", "best/pope_accuracy": "max", "best/margin": "max"}
    assert {name: list(summary[name]) for name in ways} == {name: [way] for name, way in ways.items()}
    if "early_terminate" in content:
        assert sum(metric in row for row in wandb_file.history(file)) >= 2, "hyperband needs it while training"

    tables = {tuple(table["columns"][:2]): table for table in wandb_file.tables(file)}
    pairs, examples = tables["sample", "source"], tables["trend", "suite"]
    for table in (pairs, examples):
        assert table["data"], table["columns"]
        cell = table["data"][0][table["columns"].index("image")]
        assert max(Image.open(table["files"][cell["path"]]).size) <= 160
    assert any("⟦" in str(row) for row in pairs["data"]), "differing words are marked"
    assert {row[0] for row in examples["data"]} <= {"improved", "worse", "unchanged"}

    if path.stem == QUICK:
        there_for_the_dashboard(file)

    (started,) = [record.run for record in wandb_file.records(file) if record.HasField("run")][:1]
    assert started.run_id == f"run{path.stem}" and started.run_group == "sweep s1w2e3"
    assert all(f"{key}={value}" in started.display_name for key, value in point.items())
    written = [found for found in (tmp_path / "run").rglob("*") if found.is_file()]
    assert not [found for found in written if KEY.encode() in found.read_bytes()], "the key is nowhere"
    assert KEY not in done.stdout + done.stderr


def there_for_the_dashboard(file: Path) -> None:
    """Everything that the dashboard of conf/task/dashboard.yaml names is in what this run has logged."""
    task = yaml.safe_load((ROOT / "conf" / "task" / "dashboard.yaml").read_text())
    wanted = Wanted("parallax", "", *(tuple(task[name]) for name in ("metrics", "settings", "tables")))
    named = names_in(specification(build_workspace(wanted), build_report(wanted, {})))
    config, logged = wandb_file.config(file), {name for row in wandb_file.history(file) for name in row}
    for key in named.settings:
        node: Any = config
        for part in key.split("."):
            assert part in node, f"{key} is in no run's configuration"
            node = node[part]
    assert named.metrics - logged - set(wandb_file.summary(file)) == set()
    kinds = {name: wandb_file.summary(file).get(f"{name}/_type") for name in named.tables}
    assert named.tables and set(kinds.values()) == {"table-file"}, kinds
