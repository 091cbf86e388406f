"""Images prepared in the background: the same answers with any number of workers, and no silence when one dies."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from parallax.models.encoding.workers import WorkerDied
from parallax.models.generation.prefetch import workers_for
from parallax.models.generation.requests import GenerationRequest
from parallax.models.packed_tensors import Packed
from parallax.records import BadImage, Decoding, ViewSpec
from tests.faults import Injected
from tests.models.examples import Picture, ragged

MAIN = os.getpid()


class Deadly(Picture):
    """Ends the process that opens it, unless that is the test's own."""

    def load(self) -> Image.Image:
        if os.getpid() != MAIN:
            os._exit(13)
        return super().load()


@dataclass(frozen=True)
class DeadlyOnce(Picture):
    """Ends the first process that opens it, as running out of memory may; `mark` is a file that remembers."""

    mark: str = ""

    def load(self) -> Image.Image:
        if os.getpid() != MAIN and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            os._exit(13)
        return super().load()


class Endless(Picture):
    def load(self) -> Image.Image:
        while True:
            time.sleep(1)


class Slow(Picture):
    def load(self) -> Image.Image:
        time.sleep(0.15)
        return super().load()


class Wrong(Picture):
    def load(self) -> Image.Image:
        raise ZeroDivisionError("a mistake in the reader")


class Unreadable(Picture):
    def load(self) -> Image.Image:
        raise BadImage("the image x.png is cut short; replace the file")


def test_answers_do_not_depend_on_the_number_of_workers(family: str, make_policy: Any) -> None:
    policy = make_policy(family)
    bad = GenerationRequest("bad", Unreadable(1), "What?", ViewSpec(), Decoding(3))
    requests = [*ragged(24), bad, *ragged(4, temperature=1.0)]
    found = []
    for workers in (0, 1, 2):
        reasons: list[str] = []
        answers = policy.generate(
            requests, batch_size=9, num_workers=workers, set_aside=lambda _, why, told=reasons: told.append(why)
        )
        found.append((answers, reasons, policy.last_generation.tokens, policy.last_generation.images_encoded))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == ["the image x.png is cut short; replace the file"]


def test_drawing_random_numbers_goes_on_as_if_nothing_had_been_generated(make_policy: Any) -> None:
    policy = make_policy("llava")
    for workers in (0, 1):
        torch.manual_seed(3)
        policy.generate(ragged(3), num_workers=workers)
        after = torch.rand(1)
        torch.manual_seed(3)
        assert torch.equal(after, torch.rand(1))


def test_an_image_that_ends_its_worker_is_set_aside_and_the_others_are_answered(
    make_policy: Any, injected: Injected
) -> None:
    policy = make_policy("llava")
    deadly = GenerationRequest("x", Deadly(1), "What?", ViewSpec(), Decoding(3))
    requests = [*ragged(20), deadly, *ragged(3)]
    reasons: list[str] = []
    answers = policy.generate(requests, batch_size=4, num_workers=1, set_aside=lambda _, why: reasons.append(why))
    (why,) = reasons
    assert re.match(r"image 'picture:1' ends the process that opens it \(\S+\); it is damaged or too large", why)
    assert answers[20] is None
    assert answers[:20] + answers[21:] == policy.generate([*ragged(20), *ragged(3)], batch_size=4, num_workers=0)
    injected(
        "image that ends the process which opens it", told=1, says="set aside by name; the others get the same answers"
    )


def test_an_image_that_takes_forever_is_set_aside_within_a_bounded_time(
    make_policy: Any, monkeypatch: pytest.MonkeyPatch, injected: Injected
) -> None:
    monkeypatch.setattr("parallax.models.generation.prefetch.STALLED", 5)
    monkeypatch.setattr("parallax.models.generation.prefetch.DECODE_SECONDS", 2)
    policy, reasons = make_policy("llava"), []
    requests = [*ragged(8), GenerationRequest("x", Endless(1), "What?", ViewSpec(), Decoding(3))]
    began = time.monotonic()
    answers = policy.generate(requests, batch_size=4, num_workers=1, set_aside=lambda _, why: reasons.append(why))
    assert time.monotonic() - began < 40 and answers[8] is None and None not in answers[:8]
    assert len(reasons) == 1 and "takes longer than 3 s to open" in reasons[0]
    injected("image that takes forever", told=1, says="given up within the limit, set aside; the others are answered")


def test_a_worker_that_dies_through_no_images_fault_is_reported_in_a_sentence(
    make_policy: Any, tmp_path: Path, injected: Injected
) -> None:
    policy = make_policy("llava")
    once = GenerationRequest("x", DeadlyOnce(1, mark=str(tmp_path / "died")), "What?", ViewSpec(), Decoding(3))
    with pytest.raises(WorkerDied, match=r"generation.num_workers.*0 to prepare images in the main process"):
        policy.generate([*ragged(8), once], batch_size=4, num_workers=1)
    assert policy.generate([*ragged(8), once], batch_size=4, num_workers=0)[-1] is not None
    injected("worker that prepares images killed", told=1, says="a sentence with the key to change")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_program_is_raised_as_it_is(make_policy: Any, workers: int) -> None:
    request = GenerationRequest("x", Wrong(1), "What?", ViewSpec(), Decoding(3))
    with pytest.raises(ZeroDivisionError, match="^a mistake in the reader$"):
        make_policy("llava").generate([request], num_workers=workers, set_aside=lambda *_: None)


def test_the_time_in_which_the_model_waits_is_measured(make_policy: Any) -> None:
    policy = make_policy("llava")
    requests = [GenerationRequest("s", Slow(i), "What is shown?", ViewSpec(), Decoding(4)) for i in range(4)]
    policy.generate(requests, batch_size=2, num_workers=0)
    counts = policy.last_generation
    assert 4 * 0.15 <= counts.waited < counts.seconds  # nobody else did it
    assert counts.wait_share == counts.waited / counts.seconds


def test_few_requests_start_no_workers_and_a_wish_is_obeyed() -> None:
    assert workers_for("auto", 10) == 0
    assert workers_for(3, 10) == 3
    assert 0 <= workers_for("auto", 10_000) <= 8


def test_packing_keeps_every_tensor_and_shares_what_was_shared() -> None:
    once = torch.arange(6.0).reshape(2, 3)
    values = [{"a": once, "b": {"c": torch.tensor([1, 2])}}, {"a": once, "b": {}, "d": torch.tensor(7.0)}]
    packed = Packed.of(values)
    assert {dtype: len(buffer) for dtype, buffer in packed.buffers.items()} == {torch.float32: 7, torch.int64: 2}
    first, second = packed.to(torch.device("cpu")).values()
    assert torch.equal(first["a"], once) and torch.equal(second["a"], once) and second["b"] == {}
    assert torch.equal(first["b"]["c"], torch.tensor([1, 2])) and second["d"].shape == () and float(second["d"]) == 7.0
