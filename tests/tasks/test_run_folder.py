"""Which folder a run goes on in: the newest of the same configuration, data, weights and code, or one of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from parallax.records.interruption import Interrupted
from parallax.records.run_lock import FolderInUse, RunLock
from parallax.tasks.recipe import code_digest, run_key
from parallax.tasks.run_folder import Choice, choose, in_run_folder
from parallax.tasks.run_state import RunState, now, state_of
from tests.processes import in_processes, write_here

KEY = "the key"


def past_run(outputs: Path, time_of_day: str, state: str, **changes: Any) -> Path:
    """A run folder as an earlier process left it."""
    folder = outputs / "2026-01-01" / time_of_day
    folder.mkdir(parents=True)
    known = RunState(KEY, code_digest(), "align", state, "2026-01-01", time.time() + int(time_of_day[-2:]), "later")
    replace(known, **changes).write(folder)
    if state == "finished":
        (folder / "results.json").write_text(json.dumps({"pairs": {"kept": 3}}))
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder Hydra has just made."""
    folder = tmp_path / "outputs" / "2026-01-02" / "00-00-00"
    (folder / ".hydra").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("state", "words"), [("running", "was killed"), ("interrupted", "was stopped"), ("failed", "failed")]
)
def test_the_newest_unfinished_run_is_gone_on_with(tmp_path: Path, own: Path, state: str, words: str) -> None:
    past_run(tmp_path / "outputs", "10-00-01", "interrupted")
    newest = past_run(tmp_path / "outputs", "10-00-02", state)
    past_run(tmp_path / "outputs", "10-00-03", state, key="another configuration")
    past_run(tmp_path / "outputs", "10-00-04", state, task="evaluate")
    choice = choose("auto", KEY, "align", own)
    assert choice.folder == newest and not choice.finished and words in str(choice.said)


def test_a_finished_run_is_said_to_be_finished_and_never_starts_afresh(tmp_path: Path, own: Path) -> None:
    done = past_run(tmp_path / "outputs", "10-00-01", "finished")
    choice = choose("auto", KEY, "align", own)
    assert choice.finished and choice.folder == done and "resume=never runs it once more" in str(choice.said)
    assert choose("never", KEY, "align", own).folder == own
    assert choose(str(done), KEY, "align", own).finished
    (done / "results.json").unlink()  # somebody tidied up
    assert not choose("auto", KEY, "align", own).finished


def test_a_run_by_other_code_is_left_as_it_is(tmp_path: Path, own: Path) -> None:
    old = past_run(tmp_path / "outputs", "10-00-01", "interrupted", code="older")
    choice = choose("auto", KEY, "align", own)
    assert choice.folder == own and f"resume={old} goes on with it" in str(choice.said)
    named = choose(str(old), KEY, "align", own)
    assert named.folder == old and "the code has changed since" in str(named.said)


def test_a_run_that_is_going_on_is_not_started_twice(tmp_path: Path, own: Path) -> None:
    going = past_run(tmp_path / "outputs", "10-00-01", "running")
    with RunLock(going), pytest.raises(FolderInUse, match="this very run is going on in .*resume=never"):
        choose("auto", KEY, "align", own)


def test_jobs_of_a_multirun_are_looked_for_among_jobs(tmp_path: Path) -> None:
    job = tmp_path / "multirun" / "2026-01-01" / "10-00-00" / "3"
    job.mkdir(parents=True)
    RunState(KEY, code_digest(), "align", "running", "then", 1.0).write(job)
    own = tmp_path / "multirun" / "2026-02-01" / "10-00-00" / "0"
    assert choose("auto", KEY, "align", own).folder == job


def test_folders_of_another_configuration_are_refused_and_missing_ones_named(tmp_path: Path, own: Path) -> None:
    other = past_run(tmp_path / "outputs", "10-00-01", "finished", key="another")
    (other / "stages").mkdir()
    for resume, folder, words in (("auto", other, "another configuration"), ("never", other, "holds a run already")):
        with pytest.raises(FileExistsError, match=words):
            choose(resume, KEY, "align", folder)
    failed = past_run(tmp_path / "outputs", "10-00-02", "failed", key="another")
    assert "in place of a run of another configuration, which failed" in str(choose("auto", KEY, "align", failed).said)
    assert state_of(other) is not None and state_of(other).finished, "a refusal changed the other run"  # type: ignore[union-attr]
    with pytest.raises(FileNotFoundError, match="is no folder here"):
        choose(str(tmp_path / "nowhere"), KEY, "align", own)


def test_a_run_is_marked_as_it_lives(tmp_path: Path, compose_config: Callable[..., DictConfig]) -> None:
    cfg = compose_config(f"paths.output_dir={tmp_path / 'run'}")
    folder, seen = tmp_path / "run", []

    def fails(cfg: DictConfig) -> None:
        seen.append((state_of(folder).state, cfg.resume))  # type: ignore[union-attr]
        raise ValueError("the reason\nand more")

    def stops(cfg: DictConfig) -> None:
        raise Interrupted(15)

    def ends(cfg: DictConfig) -> dict[str, Any]:
        results: dict[str, Any] = {"before": {}, "after": {}, "difference": {}, "pairs": {}}
        (folder / "results.json").write_text(json.dumps(results))
        return results

    with pytest.raises(ValueError, match="the reason") as error:
        in_run_folder(cfg.copy(), fails, folder)
    assert seen == [("running", str(folder))]
    state = state_of(folder)
    assert state is not None and (state.state, state.why) == ("failed", "the reason")
    assert "Traceback" in (folder / "error.log").read_text() and "error.log" in error.value.__notes__[0]
    with pytest.raises(Interrupted):
        in_run_folder(cfg.copy(), stops, folder)
    assert state_of(folder).state == "interrupted"  # type: ignore[union-attr]
    in_run_folder(cfg.copy(), ends, folder)
    assert state_of(folder).state == "finished"  # type: ignore[union-attr]
    in_run_folder(cfg.copy(), fails, folder)  # is not run at all
    assert len(seen) == 1


def test_hydras_fresh_folder_goes_when_the_run_takes_place_elsewhere(
    tmp_path: Path, own: Path, compose_config: Callable[..., DictConfig]
) -> None:
    cfg = compose_config(f"paths.output_dir={own}")
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    older = past_run(tmp_path / "outputs", "10-00-01", "running", key=run_key(plain))
    placed = []
    in_run_folder(cfg, lambda cfg: placed.append(cfg.paths.output_dir), own)
    assert placed == [str(older)] and not own.exists() and not own.parent.exists()


def apart(cfg: DictConfig, home: Path) -> None:
    """What torchrun does without paths.output_dir: each process has the folder that Hydra made for it."""
    rank = os.environ["RANK"]
    own = home / f"outputs-{rank}" / "2026-01-02" / f"00-00-0{rank}"
    (own / ".hydra").mkdir(parents=True)

    def act(cfg: DictConfig) -> dict[str, Any]:
        write_here(home, "acted", str(cfg.paths.output_dir))
        return {}

    try:
        got = in_run_folder(cfg, act, own)
    except FolderInUse as error:
        got = {"in use": str(error)}
    write_here(home, "got", got)


@pytest.mark.parametrize("state", ["finished", "interrupted", "in use"])
def test_what_the_first_process_finds_holds_for_all(
    tmp_path: Path, compose_config: Callable[..., DictConfig], state: str
) -> None:
    """Only the first one sees the earlier run: the others neither wait for it for ever nor begin another."""
    cfg = compose_config("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"paths.cache_dir={tmp_path}")
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    kept = "running" if state == "in use" else state
    earlier = past_run(tmp_path / "outputs-0", "10-00-01", kept, key=run_key(plain))
    if state == "finished":
        (earlier / "results.json").write_text(json.dumps({"before": {}, "after": {}, "difference": {}, "pairs": {}}))
    with RunLock(earlier) if state == "in use" else nullcontext():
        in_processes(2, apart, cfg, tmp_path, timeout=120)
    first, second = (torch.load(tmp_path / f"got-{rank}.pt") for rank in (0, 1))
    assert first == second
    acted = {torch.load(path) for path in tmp_path.glob("acted-*.pt")}
    assert acted == ({str(earlier)} if state == "interrupted" else set())
    assert ("in use" in first) == (state == "in use")
    if state != "in use":
        assert not list(tmp_path.glob("outputs-*/2026-01-02")), "an empty folder was left behind"


def test_the_key_follows_the_data_and_the_recipe_and_not_the_place(
    tmp_path: Path, compose_config: Callable[..., DictConfig]
) -> None:
    images, file = tmp_path / "images", tmp_path / "data.json"
    images.mkdir()
    file.write_text("[]")

    def key(*words: str) -> str:
        cfg = compose_config("data=llava_json", f"data.path={file}", f"data.image_root={images}", *words)
        plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
        return run_key(plain)

    base = key()
    assert (
        key("paths.output_dir=elsewhere", "paths.cache_dir=elsewhere", "resume=never", "logger=none", "tags=[a]")
        == base
    )
    assert key("loss.beta=0.2") != base != key("task=evaluate")
    file.write_text("[ ]")  # the same name with other bytes
    assert key() != base


def test_a_folder_the_user_names_gets_the_results_whatever_lies_beside_it(tmp_path: Path) -> None:
    done, own = tmp_path / "done", tmp_path / "new"
    for folder in (done, own):
        folder.mkdir()
    RunState(KEY, code_digest(), "align", "finished", now(), 1.0, now()).write(done)
    (done / "results.json").write_text("{}")
    assert choose("auto", KEY, "align", own).finished
    assert choose("auto", KEY, "align", own, named=True) == Choice(own)
