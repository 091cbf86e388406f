"""Which requests meet in a batch: one image stays together, similar lengths meet, every request has its place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parallax.models.generation.requests import PART, GenerationRequest, plan_batches
from parallax.records import Decoding, ViewSpec
from tests.models.examples import Picture


def request(image: int, prompt: str = "What?", limit: int = 8, view_seed: int | None = None) -> GenerationRequest:
    view = ViewSpec() if view_seed is None else ViewSpec("diffusion", {"noise_steps": 500}, view_seed)
    return GenerationRequest("s", Picture(image), prompt, view, Decoding(limit))


def digests(requests: list[GenerationRequest]) -> list[str]:
    return [request.image.digest() for request in requests]


def flat(batch: list[list[int]]) -> list[int]:
    return [place for part in batch for place in part]


def test_requests_about_one_image_land_in_one_batch_whatever_is_asked() -> None:
    requests = [request(i % 5, prompt="Why? " * (1 + i)) for i in range(20)]  # 5 images, 4 prompts of all lengths each
    batches = [flat(batch) for batch in plan_batches(requests, digests(requests), 8)]
    assert [len(batch) for batch in batches] == [8, 8, 4]
    where = [{number for number, batch in enumerate(batches) for place in batch if place % 5 == i} for i in range(5)]
    assert all(len(numbers) == 1 for numbers in where)


def test_rows_with_the_same_view_are_neighbours() -> None:
    requests = [request(1, prompt=str(i), view_seed=7 if i % 2 else None) for i in range(6)]
    [[part]] = plan_batches(requests, digests(requests), 6)
    assert [requests[place].view.seed for place in part] in ([7, 7, 7, 0, 0, 0], [0, 0, 0, 7, 7, 7])


def test_similar_lengths_meet() -> None:
    requests = [request(i, prompt="x" * (100 if i % 2 else 3)) for i in range(8)]
    short, long = (flat(batch) for batch in plan_batches(requests, digests(requests), 4))
    assert short == [0, 2, 4, 6] and long == [1, 3, 5, 7]


@given(
    images=st.lists(st.integers(0, 9), min_size=0, max_size=80),
    batch_size=st.integers(1, 40),
)
def test_every_request_has_one_place_and_no_batch_is_too_large(images: list[int], batch_size: int) -> None:
    requests = [request(image, prompt="x" * (i % 7), limit=1 + i % 3) for i, image in enumerate(images)]
    batches = plan_batches(requests, [str(image) for image in images], batch_size)
    assert sorted(place for batch in batches for place in flat(batch)) == list(range(len(images)))
    assert all(0 < len(flat(batch)) <= batch_size for batch in batches)
    assert all(0 < len(part) <= PART for batch in batches for part in batch)
    for image in set(images):
        holding = [batch for batch in batches if any(images[place] == image for place in flat(batch))]
        assert len(holding) == 1 or images.count(image) > batch_size
