"""`task=export_pairs`: the pairs of a run for other programs, without generating anything twice, and from format to format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from datamodules.formats.preference_file import PreferenceFileSource
from parallax.settings.check import check, find_problems
from parallax.settings.errors import ConfigError
from parallax.tasks import run_task

SMALL = ("data.size=8", "trainer=cpu", "logger=none", "generation.max_new_tokens=24")
MULTI = ("method=seva_multi", "pairs.num_negatives=2")


@pytest.fixture
def run(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Path]:
    def start(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        cfg = compose_config(*overrides, f"paths.output_dir={folder}", f"paths.cache_dir={tmp_path / 'cache'}")
        check(cfg)
        run_task(cfg)
        return folder

    return start


def test_pairs_of_a_run_go_out_without_a_model_and_those_of_a_method_from_the_cache(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = run("built", *SMALL, "task=build_pairs", *MULTI)
    kept = json.loads((built / "pairs.json").read_text())["kept"]
    assert kept > 0
    run("cached", *SMALL, *MULTI, "task=export_pairs", "task.format=llava", f"task.output={tmp_path / 'llava'}")
    assert "; 0 generated" in capsys.readouterr().out and not (tmp_path / "cached").exists()

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("parallax.models.loading.load_policy", never)
    run("out", *SMALL, "task=export_pairs", f"task.pairs={built}", "task.format=trl", f"task.output={tmp_path / 'trl'}")
    ours = PreferenceFileSource(tmp_path / "trl" / "pairs.parquet").pairs
    theirs = PreferenceFileSource(tmp_path / "llava" / "pairs.json", tmp_path / "llava").pairs
    assert len(ours) == len(theirs) == kept and {len(pair.rejected) for pair in ours} == {2}
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.sample_id, mine.prompt, mine.chosen.text) == (other.sample_id, other.prompt, other.chosen.text)
        assert mine.image.load().tobytes() == other.image.load().tobytes()

    file = f"data.path={tmp_path / 'llava' / 'pairs.json'}"
    run("from_file", "method=dpo_file", file, "logger=none", f"data.image_root={tmp_path / 'llava'}", "task=export_pairs",
        "task.format=ms_swift", f"task.output={tmp_path / 'swift'}")  # fmt: skip
    assert len((tmp_path / "swift" / "pairs.jsonl").read_text().splitlines()) == 2 * kept


def test_what_is_not_there_is_said_in_words(run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is neither a pair set nor a run folder with one"):
        run("a", *SMALL, "task=export_pairs", f"task.pairs={tmp_path}")


def test_a_wrong_format_stops_before_anything_is_read(compose_config: Callable[..., DictConfig]) -> None:
    problems = find_problems(compose_config("task=export_pairs", "task.format=swift"))
    assert "it must be one of trl, ms_swift, llama_factory, llava. Did you mean ms_swift?" in problems["task.format"]
