"""The candidate store: content addresses, whole-or-absent shards, many writers."""

from __future__ import annotations

import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from parallax.records import Candidate, Decoding, GenerationSpec, ViewSpec
from parallax.records.candidate_store import CandidateStore

SPEC = GenerationSpec(
    policy="p", precision="float32", processor="x", template="t", image="i", prompt="What is it?",
    view=ViewSpec("diffusion", {"noise_steps": 500}, seed=7), decoding=Decoding(64, 0.8, 0.9, seed=3),
)  # fmt: skip


def candidate(number: int = 0, spec: GenerationSpec = SPEC) -> Candidate:
    spec = replace(spec, prompt=f"{spec.prompt} {number}")
    return Candidate(
        spec.key(), f"s{number}", "chosen", 0, (5, number, 2), f'Text "{number}"\n\u2603', True, spec, {"judge": 0.5}
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"policy": "q"},
        {"precision": "bfloat16"},
        {"processor": "y"},
        {"template": "u"},
        {"image": "j"},
        {"prompt": "What is it? "},
        {"view": replace(SPEC.view, name="flip")},
        {"view": replace(SPEC.view, params={"noise_steps": 501})},
        {"view": replace(SPEC.view, seed=8)},
        {"decoding": replace(SPEC.decoding, max_new_tokens=65)},
        {"decoding": replace(SPEC.decoding, temperature=0.7)},
        {"decoding": replace(SPEC.decoding, top_p=0.95)},
        {"decoding": replace(SPEC.decoding, seed=4)},
        {"generator": "server"},
    ],
    ids=str,
)
def test_changing_any_ingredient_of_a_generation_changes_its_key(changed: dict) -> None:
    assert replace(SPEC, **changed).key() != SPEC.key()


def test_nothing_else_changes_a_key() -> None:
    again = replace(SPEC, view=ViewSpec("diffusion", dict(SPEC.view.params), seed=7))
    assert again.key() == SPEC.key() == GenerationSpec(**{f: getattr(SPEC, f) for f in SPEC.__dataclass_fields__}).key()
    first, other = candidate(1), replace(candidate(1), sample_id="other", role="rejected", index=3, scores={})
    assert first.key == other.key


def test_candidates_come_back_as_they_were_stored(tmp_path: Path) -> None:
    stored = [candidate(number) for number in range(5)]
    CandidateStore(tmp_path).add(stored)
    store = CandidateStore(tmp_path)
    assert store.get_many([c.key for c in stored] + ["0" * 32]) == {c.key: c for c in stored}
    assert len(store) == 5 and stored[0].key in store and "0" * 32 not in store


def test_pandas_reads_the_shards(tmp_path: Path) -> None:
    path = CandidateStore(tmp_path).add([candidate(3)])
    table = pandas.read_parquet(path)
    assert table.text.tolist() == [candidate(3).text] and table.token_ids[0].tolist() == [5, 3, 2]


def test_another_stores_shards_are_seen_after_a_refresh(tmp_path: Path) -> None:
    one, other = CandidateStore(tmp_path), CandidateStore(tmp_path)
    other.add([candidate(1)])
    assert candidate(1).key not in one
    one.refresh()
    assert candidate(1).key in one


def test_torn_foreign_and_unfinished_files_are_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = CandidateStore(tmp_path).add([candidate(1)])
    assert good is not None
    (tmp_path / "torn.parquet").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "empty.parquet").write_bytes(b"")
    pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    (tmp_path / ".tmp-123.parquet").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        store = CandidateStore(tmp_path)
    assert list(store.get_many([candidate(1).key])) == [candidate(1).key]
    assert sorted(r.getMessage().split("/")[-1].split(":")[0] for r in caplog.records) == [
        "empty.parquet", "foreign.parquet", "torn.parquet",
    ]  # fmt: skip


def test_a_candidate_whose_key_does_not_fit_its_making_is_not_believed(tmp_path: Path) -> None:
    lie = replace(candidate(1), key=candidate(2).key)
    CandidateStore(tmp_path).add([lie])
    assert CandidateStore(tmp_path).get_many([lie.key]) == {}


def _write(folder: Path, numbers: range) -> None:
    store = CandidateStore(folder)
    for number in numbers:
        store.add([candidate(number)])


def test_several_processes_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ranges = [range(12), range(8, 20), range(16, 28)]  # overlapping: the same work done twice does no harm
    writers = [context.Process(target=_write, args=(tmp_path, numbers)) for numbers in ranges]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = CandidateStore(tmp_path)
    assert len(store) == 28
    assert store.get_many([candidate(n).key for n in range(28)]) == {candidate(n).key: candidate(n) for n in range(28)}
    assert not list(tmp_path.glob(".tmp-*"))
