"""A disk that is full at some writing place: a sentence, nothing damaged, and with room again the same command goes on.

`disk.c` stands for the disk: from a given write on, all fail with ENOSPC, whoever makes them. The writes of an untouched run are
listed first, so that the disk can be full at the very first byte of each place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pytest

from tests.faults import Injected
from tests.reliability.program import SMALL, Ended, disk_library, run
from tests.reliability.sameness import differences, only_run, results_of

pytestmark = pytest.mark.skipif(disk_library() is None, reason="needs Linux and a C compiler for disk.c")

WORDS = (*SMALL, "method=seva", "export.merged=true", "evaluation.when=[after]")
PLACES = (
    ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "(is it writable?)", "cache/(is it writable?)",
    "run.lock.json", "run_state.json", "config.yaml", "environment.json", "run.log", "cache/weight_digests.json",
    "cache/candidates/leases/*", "cache/candidates/*.parquet", "cache/(file without a name)", "cache/pairs/*/pairs.parquet",
    "cache/pairs/*/dropped.parquet", "cache/pairs/*/manifest.json", "stages/align/pairs.json", "cache/references/*/*.parquet",
    "metrics.csv", "stages/align/metrics.csv", "stages/align/checkpoints/step-*.ckpt",
    "stages/align/checkpoints/step-*.ckpt.xxh128", "stages/align/adapter/*.safetensors",
    "stages/align/adapter/adapter_config.json",
    "stages/align/adapter/README.md", "stages/align/fit.json", "manifest.json", "cache/evaluations/*.parquet",
    "cache/evaluations/*.json", "stages/align/eval_after.json", "merged/*.safetensors", "merged/config.json",
    "merged/generation_config.json", "merged/chat_template.jinja", "merged/tokenizer_config.json", "merged/tokenizer.json",
    "merged/processor_config.json", "results.json", "report.html",
)  # fmt: skip
QUICK = ("cache/candidates/*.parquet", "stages/align/checkpoints/step-*.ckpt")


@lru_cache(maxsize=1)
def untouched(folder: Path) -> tuple[Mapping[str, int], Mapping[str, object]]:
    """Place → number of its first write, and the results, of a run with room."""
    log = folder / "log.txt"
    done = run(
        WORDS, folder / "run", environment={"PARALLAX_DISK_UNDER": str(folder / "run"), "PARALLAX_DISK_LOG": str(log)}
    )
    assert done.status == 0, done.screen
    return first_writes(log.read_text().splitlines(), folder / "run"), results_of(only_run(folder / "run"))


def first_writes(lines: list[str], folder: Path) -> dict[str, int]:
    """Place → number of its first write. What was written under a temporary name goes by the name it got."""
    moved = [line[2:].split("\t") for line in lines if line.startswith("R ")]
    found: dict[str, int] = {}
    for number, path in enumerate((line[2:] for line in lines if line.startswith("W ")), start=1):
        for old, new in moved:
            if path == old or path.startswith(f"{old}/"):
                path = new + path[len(old) :]
        found.setdefault(place_of(path, folder), number)
    return found


def place_of(path: str, folder: Path) -> str:
    """A file by what it is for: without dates, hashes and numbers."""
    name = path.removeprefix(f"{folder}/")
    name = re.sub(r"^outputs/[\d-]+/[\d-]+/", "", name)
    name = re.sub(r"^(cache/)?\.tmp-[0-9a-f]{32}$", r"\1(is it writable?)", name)  # written and removed
    name = re.sub(r"^cache/#\d+ \(deleted\)$", "cache/(file without a name)", name)
    name = re.sub(r"\.tmp\w{6}$", "*.safetensors", name)  # the library's own unfinished name
    return re.sub(r"\b[0-9a-f]{32}\b|\d{6,}[\w-]*", "*", name)


def full_from(write: int, folder: Path) -> Ended:
    """Run on a disk that is full from this write on."""
    variables = {"PARALLAX_DISK_UNDER": str(folder), "PARALLAX_DISK_FULL_FROM": str(write)}
    return run(WORDS, folder, environment={**variables, "PARALLAX_DISK_LOG": str(folder.with_suffix(".log"))})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, int], Mapping[str, object]]:
    return untouched(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=() if place in QUICK else pytest.mark.slow) for place in PLACES]
)
def test_a_full_disk_costs_nothing_but_the_time_to_free_it(
    tmp_path: Path, injected: Injected, whole: tuple[Mapping[str, int], Mapping[str, object]], place: str
) -> None:
    first_write, results = whole
    first = full_from(first_write[place], tmp_path / "run")
    assert (tmp_path / "run.log").read_text().count("F ") > 0, "the disk was never full"
    assert first.status == 1 and "The run stopped: the disk is full" in first.screen, first.screen
    assert "Traceback" not in first.screen and "Nothing that was written before is damaged" in " ".join(
        first.screen.split()
    )
    again = run(WORDS, tmp_path / "run")
    assert again.status == 0, again.screen
    different = differences(dict(results), results_of(only_run(tmp_path / "run")))
    assert not different, f"these differ: {different}\n{again.screen}"
    left = list((tmp_path / "run" / "outputs").rglob(".tmp-*"))
    assert not left, f"leftovers: {left}"
    injected(
        "disk full from the first byte of a writing place on", same=1, where=(place,),
        says="a sentence; after freeing space the same command ends with the same result",
    )  # fmt: skip


@pytest.mark.slow
def test_every_writing_place_is_tried(whole: tuple[Mapping[str, int], Mapping[str, object]]) -> None:
    assert set(whole[0]) == set(PLACES)
