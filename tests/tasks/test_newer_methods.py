"""Methods of self-feedback: two processes build the pairs of one, a second run asks nothing again, online DPO ends well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from safetensors.torch import load_file

from tests.processes import in_processes
from tests.tasks.test_many_processes import run_config

SMALL = (
    "data.size=8", "trainer.batch_size=4", "trainer.micro_batch_size=4", "trainer.max_epochs=1", "evaluation.when=[]",
    "trainer=cpu", "logger=none", "pairs.drop_equal=false", "pairs.drop_truncated=false",
)  # fmt: skip
SAMPLED = ("stages.align.proposer.temperature=1.5", "generation.max_new_tokens=24")
BUILDS = {
    "rlaif": ("stages.align.proposer.num_samples=4", *SAMPLED, "pairs.length_balance=false"),
    "online_dpo": ("stages.align.proposer.num_samples=4", *SAMPLED, "pairs.length_balance=false"),
    "sena": ("generation.max_new_tokens=24",),
    "shape": ("generation.max_new_tokens=24",),
    "dropout_ntp": ("generation.max_new_tokens=24",),
    "self_rewritten": ("generation.max_new_tokens=24",),
    "bpo": ("generation.max_new_tokens=24",),
    "opa_dpo": ("generation.max_new_tokens=24",),
    "mpo_correctness": ("data.size=12", "stages.align.proposer.temperature=1.5", "generation.max_new_tokens=8"),
}


def places(folder: Path, cache: Path) -> list[str]:
    return [f"paths.output_dir={folder}", f"paths.cache_dir={cache}"]


def pairs_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    report = json.loads((folder / "pairs.json").read_text())
    return report, parquet.read_table(Path(report["pair_set"]) / "pairs.parquet").to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("method", BUILDS)
def test_two_processes_build_the_pairs_of_one_and_a_second_run_asks_nothing_again(tmp_path: Path, method: str) -> None:
    words = [*SMALL, f"method={method}", *BUILDS[method], "task=build_pairs"]
    for count, name, cache in ((1, "one", "first"), (2, "two", "second"), (1, "again", "first")):
        extra = ["trainer.devices=2", "trainer.strategy=ddp"] if count == 2 else []
        in_processes(count, run_config, [*words, *places(tmp_path / name, tmp_path / cache), *extra])
    (one, pairs), (two, same), (again, _) = (pairs_of(tmp_path / name) for name in ("one", "two", "again"))
    assert pairs and same == pairs
    for report in (two, again):
        for key in ("key", "samples", "kept", "dropped", "skipped", "judge"):
            assert report[key] == one[key], key
    assert one["built"] > 0 == again["built"]


@pytest.mark.slow
def test_online_dpo_asks_the_policy_anew_and_a_stopped_run_goes_on_to_the_same_adapter(tmp_path: Path) -> None:
    words = [
        *SMALL, "method=online_dpo", *BUILDS["online_dpo"], "trainer.max_epochs=2", "optim.lr=0.003",
        "trainer.checkpoint.every_n_steps=1", "trainer.checkpoint.keep=9",
    ]  # fmt: skip
    whole = tmp_path / "whole"
    in_processes(1, run_config, [*words, *places(whole, tmp_path / "cache")])
    fit = json.loads((whole / "stages/align/fit.json").read_text())
    first, second = fit["pair_reports"]
    assert fit["segments"] == 2 and fit["steps"] == fit["total_steps"]
    assert first["built"] and second["built"] and first["key"] != second["key"]
    learned = load_file(str(whole / "stages/align/adapter/adapter_model.safetensors"))
    assert all(bool(value.isfinite().all()) for value in learned.values())
    for name in ("results.json", "manifest.json", "run.log", "stages/align/fit.json"):
        (whole / name).unlink()  # as a kill in the second segment leaves it
    kept = sorted((whole / "stages/align/checkpoints").glob("step-*.ckpt"))
    assert len(kept) == fit["steps"] > 2
    kept[-1].unlink()
    (whole / "stages/align/adapter/adapter_model.safetensors").unlink()
    in_processes(1, run_config, [*words, *places(whole, tmp_path / "cache")])
    same = load_file(str(whole / "stages/align/adapter/adapter_model.safetensors"))
    assert all(bool((same[name] == value).all()) for name, value in learned.items())
