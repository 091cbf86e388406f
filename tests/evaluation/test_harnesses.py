"""Bridges to lmms-eval and VLMEvalKit: the command, the result files in their layouts, and what is said when there are none."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallax.evaluation.harnesses import HarnessFailed, LmmsEval, VlmEvalKit, lmms_eval_metrics, run_harness
from parallax.settings.check import check, find_problems
from parallax.tasks import run_task
from tests.parts import part

FILES = Path(__file__).with_name("harness_files")


def interpreter(folder: Path, program: str) -> str:
    """An interpreter that does what `program` says, whatever it is asked to run."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable} -S\nimport sys, pathlib, shutil, json\n{program}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


LEAVES_RESULTS = """
where = pathlib.Path(sys.argv[sys.argv.index("--output_path") + 1]) / "model"
where.mkdir(parents=True)
shutil.copy({file!r}, where / "20261126_120000_results.json")
model = dict(word.split("=") for word in sys.argv[sys.argv.index("--model_args") + 1].split(","))["pretrained"]
print(json.dumps(sorted(path.name for path in pathlib.Path(model).iterdir())))
"""


def test_lmms_evals_command_names_model_tasks_and_output() -> None:
    bridge = part(
        LmmsEval,
        "/env/bin/python",
        ["pope", "mme"],
        model_args={"device_map": "cpu"},
        limit=8,
        extra=["--force_simple"],
    )
    words = bridge.command("/models/merged", Path("/run"))
    assert words[:3] == ["/env/bin/python", "-m", "lmms_eval"]
    assert words[words.index("--model_args") + 1] == "pretrained=/models/merged,device_map=cpu"
    assert words[words.index("--tasks") + 1] == "pope,mme" and words[-3:] == ["--limit", "8", "--force_simple"]


def test_lmms_evals_result_file_becomes_metrics_with_intervals() -> None:
    metrics = lmms_eval_metrics(json.loads((FILES / "lmms_eval_results.json").read_text()))
    accuracy = metrics["pope/pope_accuracy"]
    assert accuracy.value == 0.875 and accuracy.n == 8
    assert accuracy.low is not None and accuracy.low == pytest.approx(0.875 - 1.959964 * 0.125)
    assert metrics["mme/mme_perception_score"].value == 1506.4 and metrics["mme/mme_perception_score"].low is None
    assert metrics["gsm/exact_match:flexible-extract"].value == 0.5
    assert set(metrics) == {"pope/pope_accuracy", "mme/mme_perception_score", "gsm/exact_match:flexible-extract"}


def test_a_file_that_the_real_program_left_is_read() -> None:
    """Of lmms-eval 0.7.3 on the built-in model, eight questions, with its several kinds of standard errors."""
    metrics = lmms_eval_metrics(json.loads((FILES / "lmms_eval_0_7_3_results.json").read_text()))
    assert list(metrics) == ["pope_local/pope_accuracy"]
    accuracy = metrics["pope_local/pope_accuracy"]
    assert accuracy.value == 0.5 and accuracy.n == 8 and accuracy.low == pytest.approx(0.5 - 1.959964 * 0.1889822365)


def test_vlmevalkits_tables_become_metrics(tmp_path: Path) -> None:
    bridge = VlmEvalKit(
        "/env/bin/python",
        "/kit",
        {"POPE": {"class": "ImageYORNDataset", "dataset": "POPE"}, "MMBench": {}},
        "LLaVA_Next",
    )
    words = bridge.command("/models/merged", tmp_path)
    told = json.loads((tmp_path / "vlmevalkit.json").read_text())
    assert told["model"]["model"] == {"class": "LLaVA_Next", "model_path": "/models/merged"} and "POPE" in told["data"]
    assert words[:4] == ["/env/bin/python", "run.py", "--config", str(tmp_path / "vlmevalkit.json")]
    where = tmp_path / "results" / "model" / "T20261126_Gabc"
    where.mkdir(parents=True)
    shutil.copy(FILES / "model_POPE_score.csv", where)
    shutil.copy(FILES / "model_MMBench_acc.csv", where)
    metrics = bridge.read(tmp_path)
    assert metrics["POPE/acc:random"].value == 89.5 and metrics["POPE/Overall:Overall"].value == 85.9
    assert metrics["MMBench/Overall"].value == 0.643 and metrics["MMBench/attribute_reasoning"].value == 0.7


def test_a_harness_without_results_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    bridge = part(LmmsEval, interpreter(tmp_path, "print('No module named lmms_eval')"), ["pope"])
    with pytest.raises(HarnessFailed, match=r"left no results \(exit code 0\)[\s\S]*No module named lmms_eval"):
        run_harness(bridge, "model", tmp_path / "run")
    with pytest.raises(HarnessFailed, match="could not be started with /nowhere/python"):
        run_harness(part(LmmsEval, "/nowhere/python", ["pope"]), "model", tmp_path / "run")
    assert shlex.split((tmp_path / "run" / "command.sh").read_text().splitlines()[1])[0] == "/nowhere/python"


def test_its_numbers_stand_in_results_json(compose_config: Callable[..., Any], tmp_path: Path) -> None:
    """With our suites or alone; the interpreter is a small program that leaves a result file of the real layout."""
    python = interpreter(tmp_path, LEAVES_RESULTS.format(file=str(FILES / "lmms_eval_results.json")))
    words = [
        "task=evaluate",
        "evaluation=lmms_eval",
        "logger=none",
        "trainer=cpu",
        f"paths.output_dir={tmp_path / 'run'}",
    ]
    assert "evaluation.harnesses.lmms_eval.python" in find_problems(compose_config(*words))
    cfg = compose_config(
        *words, f"evaluation.harnesses.lmms_eval.python={python}", f"paths.cache_dir={tmp_path / 'cache'}"
    )
    check(cfg)
    run_task(cfg)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["after"]["lmms_eval/pope/pope_accuracy"]["value"] == 0.875
    assert "lmms_eval/mme/mme_perception_score" in (tmp_path / "run" / "report.html").read_text()
    given = json.loads((tmp_path / "run/harnesses/after/lmms_eval/harness.log").read_text())
    assert "config.json" in given and "model.safetensors" in given


REAL = os.environ.get("PARALLAX_LMMS_EVAL_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="PARALLAX_LMMS_EVAL_PYTHON names no interpreter that has lmms-eval")
def test_the_real_lmms_eval_takes_our_command_and_measures_the_built_in_model(tmp_path: Path) -> None:
    """A task of its own over our POPE fixture, offline; lmms-eval loads and asks the model, we read what it leaves."""
    official, task = Path(__file__).with_name("official"), tmp_path / "task"
    shutil.copytree(FILES / "pope_local", task)
    text = (
        (task / "pope_local.yaml")
        .read_text()
        .replace("QUESTIONS", str(official / "pope" / "coco_pope_adversarial.json"))
    )
    (task / "pope_local.yaml").write_text(text)
    bridge = part(LmmsEval,
        str(REAL), ["pope_local"], model_args={"device": "cpu", "device_map": "cpu"},
        extra=["--include_path", str(task), "--force_simple"],
    )  # fmt: skip
    os.environ["POPE_IMAGES"] = str(official / "coco" / "val2014")
    model = str(Path(__file__).parents[2] / "assets" / "tiny_llava")
    found = run_harness(bridge, model, tmp_path / "run")["lmms_eval/pope_local/pope_accuracy"]
    assert found.n == 8 and found.value is not None and 0 <= found.value <= 1
    assert subprocess.run(["sh", "-n", tmp_path / "run" / "command.sh"], check=False).returncode == 0
