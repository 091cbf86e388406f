"""Pairs built by others than one process alone: two processes of which one is killed, several runs at once, a server."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from parallax.records.candidate_store import CandidateStore
from parallax.records.shard_folder import KeyedStore
from parallax.settings.check import check
from parallax.tasks import run_task
from tests import typed
from tests.models.tiny_server import TinyServer, serving
from tests.processes import in_processes
from tests.tasks.test_align import SMALL
from tests.tasks.test_many_processes import home_with_model, run_config
from tests.tasks.tiny_fits import TRAINER, policy_and_pairs
from tests.typed import load_policy


def build(folder: Path, out: Path, devices: int, dies_after: int) -> None:
    """Build the tiny pairs. The last process ends, as if killed, while its batch number `dies_after` is being stored."""
    from lightning_modules.trainer import joined_processes

    trainer = joined_processes(typed.trainer(**{**TRAINER, "devices": devices}), folder)
    policy, data = policy_and_pairs(folder)
    data.generation = replace(data.generation, batch_size=2)
    if dies_after and os.environ["RANK"] == str(devices - 1):
        add, left = CandidateStore.add, [dies_after]

        def add_or_die(self: CandidateStore, candidates: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return add(self, candidates)

        CandidateStore.add = add_or_die  # type: ignore[method-assign]
    report = data.build_pairs(policy, trainer)
    if os.environ.get("RANK", "0") == "0":
        out.write_text(json.dumps({**report.as_data(), "ids": data.pair_ids}))


def test_a_build_whose_process_was_killed_goes_on_to_the_same_set(tmp_path: Path) -> None:
    reports = {}
    for name in ("one", "two"):
        home_with_model(tmp_path / name)
    in_processes(1, build, tmp_path / "one", tmp_path / "one.json", 1, 0)
    with pytest.raises(AssertionError, match="exit codes"):
        in_processes(2, build, tmp_path / "two", tmp_path / "two.json", 2, 3, timeout=20)
    assert not (tmp_path / "two.json").exists()
    there = len(CandidateStore(tmp_path / "two/cache/candidates"))
    assert 4 <= there < 20  # what the dead one had finished, and what the other one made meanwhile
    in_processes(2, build, tmp_path / "two", tmp_path / "two.json", 2, 0)
    reports = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")}
    assert reports["two"]["ids"] == reports["one"]["ids"] and reports["two"]["key"] == reports["one"]["key"]
    assert (reports["two"]["built"], reports["two"]["reused"]) == (20 - there, there)


def build_in(folder: Path, cache: Path, out: Path, start: Any) -> None:
    policy, data = policy_and_pairs(folder)
    data.cache_dir, data.generation = cache, replace(data.generation, batch_size=2)
    start.wait()
    out.write_text(json.dumps({**data.build_pairs(policy).as_data(), "ids": data.pair_ids}))
    os._exit(0)


def test_runs_that_build_in_one_cache_at_the_same_time_share_the_work(tmp_path: Path) -> None:
    """Three processes that know nothing of each other begin together. No answer is made twice."""
    home_with_model(tmp_path)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    cache = tmp_path / "shared"
    made = [
        context.Process(target=build_in, args=(tmp_path, cache, tmp_path / f"{n}.json", start)) for n in range(3)
    ]  # fmt: skip
    for process in made:
        process.start()
    for process in made:
        process.join(120)
    assert [process.exitcode for process in made] == [0, 0, 0]
    reports = [json.loads((tmp_path / f"{n}.json").read_text()) for n in range(3)]
    assert len({tuple(report["ids"]) for report in reports}) == 1
    assert len({report["key"] for report in reports}) == 1
    keys = [key for shard in (cache / "candidates").glob("*.parquet") for key in keys_of(shard)]
    assert len(set(keys)) == 20
    twice = sum(count - 1 for count in Counter(keys).values())
    assert twice == 0, f"{twice} of 20 answers were made more than once"
    assert sum(report["built"] + report["reused"] for report in reports) == 60


def keys_of(shard: Path) -> list[str]:
    from pyarrow import parquet

    return list(parquet.read_table(shard, columns=["key"])["key"].to_pylist())


def test_a_server_builds_the_pairs_of_a_run(compose_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    base = load_policy({"path": "assets/tiny_llava"}, {"enabled": False})
    with serving(TinyServer(base, model="tiny_llava")) as server:
        words = [
            "task=build_pairs", "generation=server", f"generation.url={server.url}", "generation.model=tiny_llava", "data.size=6",
            f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}",
        ]  # fmt: skip
        cfg = compose_config(*SMALL, *words)
        check(cfg)
        run_task(cfg)
        assert len(server.asked) == 12
    report = json.loads((tmp_path / "run/pairs.json").read_text())
    assert report["built"] == 12 and report["kept"] + sum(report["dropped"].values()) == 6
    (made,) = {candidate.spec.generator for candidate in candidates_in(tmp_path / "cache/candidates")}
    assert made == "server/2/tiny_llava"


def candidates_in(folder: Path) -> list[Any]:
    store = CandidateStore(folder)
    keys = [key for shard in folder.glob("*.parquet") for key in keys_of(shard)]
    return list(store.get_many(keys).values())


PROPOSER = "stages.align.proposer"
METHOD = {
    "sima": ["judge.order=random", f"{PROPOSER}.temperature=1.5", f"{PROPOSER}.top_p=1"],
    "csr": [f"{PROPOSER}.num_groups=3", f"{PROPOSER}.keep_bottom=1", f"{PROPOSER}.prune_from=3"],
}


def apart(folder: Path) -> list[str]:
    """A run folder and a cache of their own: a run beside a finished one with the same settings would be taken for finished."""
    return [f"paths.output_dir={folder / 'run'}", f"paths.cache_dir={folder / 'cache'}"]


@pytest.mark.slow
def test_judged_and_searched_pairs_of_two_processes_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLAX_ROOT", str(Path(__file__).parents[2]))
    for method in METHOD:
        keys = []
        for count in (1, 2):
            name = f"{method}-{count}"
            words = [f"method={method}", *METHOD[method], "task=build_pairs", "data.size=5", f"trainer.devices={count}"]
            in_processes(count, run_config, [*SMALL, "generation.max_new_tokens=40", *words, *apart(tmp_path / name)])
            keys.append(json.loads((tmp_path / name / "run/pairs.json").read_text())["key"])
        assert keys[0] == keys[1], method


def search(words: list[str], calls: Path, dies_after: int) -> None:
    """Build pairs by a search. The last process ends, as if killed, when it is about to say sentences for the n-th time."""
    from parallax.models.search.group_beams import GroupBeams

    say, said = GroupBeams.next_sentences, [0]

    def say_or_die(self: GroupBeams, starts: Any) -> Any:
        said[0] += 1
        calls.with_suffix(f".{os.environ['RANK']}").write_text(str(said[0]))
        if said[0] == dies_after and os.environ["RANK"] == "1":
            os._exit(9)
        return say(self, starts)

    GroupBeams.next_sentences = say_or_die  # type: ignore[method-assign]
    run_config(words)


@pytest.mark.slow
def test_a_search_whose_process_was_killed_at_any_moment_goes_on_to_the_same_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CSR's trees: one process, two, and two of which one dies somewhere in its searches and both are started again."""
    monkeypatch.setenv("PARALLAX_ROOT", str(Path(__file__).parents[2]))
    made = ["method=csr", *METHOD["csr"], "task=build_pairs", "data.size=6", "generation.max_new_tokens=40"]
    made += ["stages.align.proposer.batch_size=3"]  # so trees are kept one by one

    def run(name: str, count: int, dies_after: int = 0, timeout: float = 300.0) -> dict[str, Any]:
        words = [*SMALL, *made, *apart(tmp_path / name), f"trainer.devices={count}"]
        in_processes(count, search, words, tmp_path / f"calls-{name}", dies_after, timeout=timeout)
        report: dict[str, Any] = json.loads((tmp_path / name / "run/pairs.json").read_text())
        return report

    one, two = run("one", 1), run("two", 2)
    assert two["key"] == one["key"] and one["kept"] > 0
    assert (one["built"], one["reused"]) == (two["built"], two["reused"]) == (6, 0)
    all_calls = int((tmp_path / "calls-two.1").read_text())
    moment = random.randint(2, all_calls)
    with pytest.raises(AssertionError, match="exit codes"):
        run("killed", 2, moment, timeout=90)
    assert (tmp_path / "calls-killed.1").read_text() == str(moment)
    assert not (tmp_path / "killed/run/pairs.json").exists()
    there = len(KeyedStore(tmp_path / "killed/cache/trees"))
    again = run("killed", 2)
    assert again["key"] == one["key"], f"killed at {moment} of {all_calls}"
    assert (again["built"], again["reused"]) == (6 - there, there) and 3 <= there < 6, (
        f"killed at {moment} of {all_calls}"
    )
