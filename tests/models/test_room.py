"""When memory runs out, the work is halved and made again: the same answers and numbers, and the size is remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parallax.models.generation.rollout import Rollout
from parallax.models.memory import generation
from parallax.models.memory.room import Room
from parallax.models.scoring import log_probs
from tests.models.examples import ragged
from tests.models.test_device_waits import ragged_pairs


def test_answers_are_those_of_the_whole_batch_and_the_size_is_remembered(
    make_policy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, requests = make_policy("llava", learned=True), [*ragged(12), *ragged(6, temperature=1.0)]
    expected = policy.generate(requests, batch_size=18)
    answers, failed = Rollout.answers, []

    def with_little_memory(self: Any) -> Any:
        if len(self._decodings) > 5:
            failed.append(len(self._decodings))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answers(self)

    monkeypatch.setattr(Rollout, "answers", with_little_memory)
    done: list[int] = []
    assert policy.generate(requests, batch_size=18, progress=done.append) == expected
    assert failed[0] == 18
    assert policy.answers_at_once.most <= 9
    assert sum(done) == 18
    assert "memory ran out with 18 answers at a time" in caplog.text
    failed.clear()
    assert policy.generate(requests, batch_size=18) == expected
    assert not failed or policy.answers_at_once.most <= 5


def test_one_answer_that_does_not_fit_is_an_error(make_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(self: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Rollout, "answers", without_memory)
    with pytest.raises(torch.OutOfMemoryError):
        make_policy("llava").generate(ragged(4), batch_size=4)


def test_the_planner_says_how_many_answers_a_gpu_takes(make_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("llava")
    from parallax.models import policy as module
    from parallax.models.memory.device_memory import DeviceMemory

    monkeypatch.setattr(generation, "device_memory", lambda _: DeviceMemory(2**22, 0, "a small card"))
    fit = generation.rows_that_fit(policy, 64)
    assert 1 <= fit < 128
    assert policy.answers_that_fit(128, 64) == 128  # on a CPU nothing is changed
    monkeypatch.setattr(module.Policy, "device", property(lambda _: torch.device("cuda:0")))
    assert policy.answers_that_fit(128, 64) == fit


def test_scoring_in_halves_gives_the_log_probs_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.random_model import random_policy

    policy, batch = random_policy("tiny", rank=4, layout="shared", attention="prefix_sdpa"), ragged_pairs(5).scoring
    with torch.no_grad():
        expected = policy.score(batch)
    score = log_probs.score

    def with_little_memory(model: Any, some: Any, *rest: Any) -> Any:
        if len(some) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(model, some, *rest)

    monkeypatch.setattr(log_probs, "score", with_little_memory)
    with torch.no_grad():
        found = policy.score(batch)
    assert torch.equal(found.counts, expected.counts)
    assert torch.allclose(found.total, expected.total, rtol=1e-5)
    assert policy.rows_at_once.most == 2
    with pytest.raises(torch.OutOfMemoryError):
        policy.score(batch)  # with gradients: the training step begins again itself


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    room = Room("rows")

    def work(rows: list[int]) -> int:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        list(room.results([1, 2], len, lambda rows: (rows[:1], rows[1:]), work))
