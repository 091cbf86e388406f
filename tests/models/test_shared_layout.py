"""One row per image scores exactly what one row per response scores, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallax.models.scoring.log_probs import score, separate_sequences
from parallax.models.scoring.shared_prefix import can_share, prefix_mask, shared_prefix
from tests.models.examples import FAMILIES, SIZES, Picture, norms_in_full_precision, prompts_and_responses


@st.composite
def batches(draw: Any) -> list[tuple[int, tuple[int, int], int, list[int]]]:
    """Rows of (number of the picture, its size, words of the question, tokens of each response), ragged in everything."""
    responses = draw(st.integers(1, 6))
    row = st.tuples(
        st.integers(0, 99),
        st.sampled_from(SIZES),
        st.integers(1, 5),
        st.lists(st.integers(1, 9), min_size=responses, max_size=responses),
    )
    return draw(st.lists(row, min_size=1, max_size=4))  # type: ignore[no-any-return]


def encoded(policy: Any, rows: list[tuple[int, tuple[int, int], int, list[int]]], seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return policy.encoder.collate(
        [
            (
                policy.encoder.encode_prompt(Picture(number, size).load(), "What is shown here? " * words),
                [torch.randint(10, 300, (length,), generator=generator) for length in lengths],
            )
            for number, size, words, lengths in rows
        ]
    )


@pytest.fixture(scope="module", params=FAMILIES)
def exact_policy(request: pytest.FixtureRequest, make_policy: Any) -> Any:
    policy = make_policy(request.param, learned=True)
    assert can_share(policy.model.get_base_model())
    norms_in_full_precision(policy.model)
    return policy


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=batches(), seed=st.integers(0, 2**31))
def test_shared_prefix_equals_separate_sequences(exact_policy: Any, rows: Any, seed: int) -> None:
    policy = exact_policy
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        policy.model.to(dtype)
        batch = encoded(policy, rows, seed)
        weights = torch.randn(batch.response_lengths.shape, generator=torch.Generator().manual_seed(seed))
        found = []
        for layout in (separate_sequences, shared_prefix):
            policy.model.zero_grad()
            result = score(policy.model, batch, layout)
            (result.total * weights).sum().backward()
            gradients = torch.cat([value.grad.flatten() for _, value in policy.trainable_parameters()])
            found.append((result.per_token.detach(), gradients, result.counts))
        (separate, separate_gradients, counts), (shared, shared_gradients, shared_counts) = found
        assert torch.equal(counts, shared_counts)
        assert torch.allclose(separate, shared, rtol=tolerance, atol=tolerance)
        largest = separate_gradients.abs().max()
        assert torch.allclose(separate_gradients / largest, shared_gradients / largest, rtol=0, atol=tolerance)


def test_dialogue_masks_count_the_same_tokens(make_policy: Any) -> None:
    policy = make_policy("qwen2_5_vl")
    policy.model.double()
    encoder = policy.encoder
    turns = [("What is shown?", "A red square."), ("How many?", "Two shapes")]
    batch = encoder.collate_dialogues([encoder.encode_dialogue(Picture(n).load(), turns[: n + 1]) for n in range(2)])
    one, other = (score(policy.model, batch, layout) for layout in (separate_sequences, shared_prefix))
    assert torch.equal(one.counts, other.counts)
    assert torch.allclose(one.per_token, other.per_token, rtol=0, atol=1e-10)


def test_no_response_sees_another() -> None:
    mask = prefix_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0]
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert mask.int().tolist() == expected


def test_the_policy_uses_the_layout_it_is_told(make_policy: Any) -> None:
    plain, sharing = make_policy("llava", model={"layout": "separate"}), make_policy("llava")
    rows: list[int] = []
    for policy in (plain, sharing):
        batch = policy.encoder.collate(prompts_and_responses(policy, 2))
        decoder = policy.model.get_base_model().model.language_model
        handle = decoder.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(kwargs["inputs_embeds"].shape[0]), with_kwargs=True
        )
        policy.score(batch)
        handle.remove()
    assert rows == [9, 3]
