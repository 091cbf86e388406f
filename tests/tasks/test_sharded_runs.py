"""Whole runs whose policy is sharded as it is loaded give what one process gives: rounds, several stages, merged models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from parallax.models.sharding.fsdp2 import FSDP2
from parallax.reports.metrics_csv import read_metrics
from tests.processes import in_processes
from tests.tasks.test_align import SMALL
from tests.tasks.test_many_processes import CONF, assert_same_adapter, losses, run_config

TWO = ["trainer.strategy=fsdp2", "trainer.devices=2"]


def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[Path, Path]:
    """The run folders of one process, and of two with sharded weights."""
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    for name, count in (("one", 1), ("two", 2)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        in_processes(
            count, run_config, [*SMALL, "resume=never", *words, *places, *(TWO if count == 2 else [])], timeout=900
        )
    return tmp_path / "one", tmp_path / "two"


@pytest.mark.slow
def test_the_reference_of_the_round_before_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["method.rounds=2", "reference.source=previous_round", "optim.lr=1e-3", "evaluation.when=[after]"]
    one, two = both(tmp_path, monkeypatch, *words)
    for number in (1, 2):
        stage = f"stages/round_{number}/align"
        assert losses(two / stage) == pytest.approx(losses(one / stage), rel=1e-4)
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    assert ours["after"] == theirs["after"] and ours["pairs"] == theirs["pairs"]


@pytest.mark.slow
def test_a_method_of_two_stages_and_the_merged_model_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = both(
        tmp_path, monkeypatch, "method=stic", "evaluation.when=[]", "export.merged=true", "debug.max_steps=2"
    )
    stages = sorted(path.relative_to(one) for path in one.glob("stages/*") if (path / "metrics.csv").is_file())
    assert len(stages) == 2
    for stage in stages:
        assert losses(two / stage) == pytest.approx(losses(one / stage), rel=1e-5)
    ours, theirs = (load_file(folder / "merged" / "model.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    assert all(value.allclose(theirs[name], atol=1e-5) for name, value in ours.items())


def never_whole(words: list[str]) -> None:
    def gathered(self: FSDP2) -> Any:
        raise AssertionError("the weights were put together")

    FSDP2.gathered = gathered  # type: ignore[method-assign]
    run_config(words)


@pytest.mark.slow
def test_ready_made_pairs_need_the_whole_model_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    made = [*SMALL, "evaluation.when=[]", f"paths.cache_dir={tmp_path / 'cache'}"]
    in_processes(1, run_config, [*made, f"paths.output_dir={tmp_path / 'pairs'}", "task=build_pairs"])
    export = [f"paths.output_dir={tmp_path / 'export'}", "task=export_pairs", f"task.output={tmp_path / 'out'}"]
    in_processes(1, run_config, [*made, *export])
    (file,) = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".jsonl", ".parquet")]
    given = [
        "method=dpo_file",
        "data=preference_file",
        f"data.path={file}",
        "reference=live",
        "evaluation=none",
        "resume=never",
    ]
    words = [word for word in SMALL if not word.startswith(("data.size", "evaluation."))] + given
    for name, count in (("one", 1), ("two", 2)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        in_processes(count, never_whole if count == 2 else run_config, [*words, *places, *(TWO if count == 2 else [])])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert len(read_metrics(tmp_path / "two" / "metrics.csv")) >= 2


@pytest.mark.slow
def test_a_whole_run_under_torchs_first_fsdp_is_that_of_one_process(tmp_path: Path) -> None:
    """`torchrun run.py trainer=fsdp`: measured before, in the middle and after, with a merged model and every result."""
    words = [
        *[word for word in SMALL if word != "trainer=cpu"],
        *("method=seva", "evaluation.every_n_steps=1", "optim.lr=1e-3", "trainer.batch_size=4", "resume=never"),
        *("export.merged=true", "trainer.accelerator=cpu"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONF.parent)}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, started, more in (("one", [], []), ("two", torchrun, ["trainer=fsdp", "trainer.devices=2"])):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        command = [sys.executable, *started, str(CONF.parent / "run.py"), *words, *more, *places]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5) and len(losses(one)) >= 2
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    for key in ("before", "after", "pairs"):
        assert ours[key] == theirs[key]
    watched = [[row["eval/recall"] for row in read_metrics(folder / "metrics.csv")] for folder in (one, two)]
    assert watched[0] == watched[1] and any(watched[0])
    assert_same_adapter(one / "stages/align/adapter", two / "stages/align/adapter")
    merged, likewise = (load_file(folder / "merged" / "model.safetensors") for folder in (one, two))
    assert merged.keys() == likewise.keys()
    assert all(value.allclose(likewise[name], atol=1e-4) for name, value in merged.items())
    assert (two / "report.html").is_file() and "process 2 of 2" in (two / "run-1.log").read_text()


WAYS = {  # further words of both runs, of the sharded one, and how far losses may be apart
    "every_weight_trained": (["lora=none"], [], 1e-5),
    "gradients_sharded_only": ([], ["trainer.fsdp.sharding=gradients"], 1e-5),
    "summed_in_bfloat16": ([], ["trainer.fsdp.reduce_dtype=bfloat16"], 5e-3),  # 8 bits of a gradient
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_other_ways_of_torchs_first_fsdp_learn_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    shared, sharded, apart = WAYS[way]
    words = [*SMALL, "evaluation.when=[after]", "trainer.batch_size=4", "resume=never", *shared]
    for name, count, more in (("one", 1, []), ("two", 2, ["trainer.strategy=fsdp", "trainer.devices=2", *sharded])):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        in_processes(count, run_config, [*words, *more, *places], timeout=900)
    one, two = tmp_path / "one", tmp_path / "two"
    assert len(losses(one)) >= 2 and losses(one)[0] != losses(one)[-1]
    assert losses(two) == pytest.approx(losses(one), rel=apart)
    assert (json.loads((two / "results.json").read_text()))["after"]


@pytest.mark.slow
def test_torchs_first_fsdp_computes_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first step is compared: processes round other sums, and Adam makes steps of tiny gradients' signs."""
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    words = [*SMALL, "evaluation.when=[after]", "trainer.precision=bf16-mixed", "resume=never"]
    for name, count, more in (("one", 1, []), ("two", 2, ["trainer.strategy=fsdp", "trainer.devices=2"])):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        in_processes(count, run_config, [*words, *more, *places], timeout=900)
    one, two = (read_metrics(tmp_path / name / "metrics.csv")[0] for name in ("one", "two"))
    assert float(two["train/loss"]) == pytest.approx(float(one["train/loss"]), rel=1e-3)
    assert float(two["train/grad_norm"]) == pytest.approx(float(one["train/grad_norm"]), rel=2e-2)
    weights = load_file(tmp_path / "two/stages/align/adapter/adapter_model.safetensors")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())
