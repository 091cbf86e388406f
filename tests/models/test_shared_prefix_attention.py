"""The attention made for shared prompts gives what the masked kernel gives, by either way, gradients included."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallax.models.backbone import base_model, text_config
from parallax.models.scoring.shared_prefix import SDPA, prefix_mask, sdpa_in_two
from parallax.models.scoring.varlen_attention import KEYWORD, flex, segment_blocks
from tests.models.examples import prompts_and_responses


def segments(rows: list[tuple[int, list[int]]]) -> torch.Tensor:
    """(prompt length, response lengths) of each row as a matrix of segments, -1 behind the last."""
    width = max(prompt + sum(responses) for prompt, responses in rows)
    result = torch.full((len(rows), width), -1)
    for row, (prompt, responses) in enumerate(rows):
        line = [0] * prompt + [k + 1 for k, length in enumerate(responses) for _ in range(length)]
        result[row, : len(line)] = torch.tensor(line)
    return result


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2) * 0.25).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


ROW = st.tuples(st.integers(1, 9), st.lists(st.integers(1, 5), min_size=1, max_size=4))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=3), st.booleans(), st.integers(0, 2**31))
def test_both_ways_equal_attention_written_out(rows: list[tuple[int, list[int]]], grouped: bool, seed: int) -> None:
    segment = segments(rows)
    size, width = segment.shape
    draw = torch.Generator().manual_seed(seed)

    def tensor(heads: int) -> torch.Tensor:
        return torch.randn(size, heads, width, 16, dtype=torch.float64, generator=draw, requires_grad=True)

    query, key, value = tensor(4), tensor(2 if grouped else 4), tensor(2 if grouped else 4)
    module = SimpleNamespace(num_key_value_groups=2 if grouped else 1, is_causal=True, training=True)
    shortest = min(prompt for prompt, _ in rows)
    real = segment >= 0  # what padding computes is nobody's business
    expected = written_out(query, key, value, prefix_mask(segment))
    results = {
        "two": sdpa_in_two(
            module, query, key, value, prefix_mask(segment, shortest), scaling=0.25, **{KEYWORD: shortest}
        )[0],
        "flex": flex(
            module,
            query.detach(),
            key.detach(),
            value.detach(),
            None,
            scaling=0.25,
            **{KEYWORD: segment_blocks(segment)},
        )[0],
    }
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=draw) * real[:, :, None, None]
    wanted = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    for name, result in results.items():
        assert torch.allclose(result[real], expected[real], rtol=0, atol=1e-12), name
        if name == "flex":
            continue  # torch has no backward of it on a CPU
        found = torch.autograd.grad((result * weights).sum(), (query, key, value))
        assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in zip(found, wanted, strict=True)), name


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager", "flex_attention"])
def test_every_attention_scores_the_same(family: str, attention: str, make_policy: Any) -> None:
    plain = make_policy(family, learned=True, model={"layout": "separate"})
    policy = make_policy(family, learned=True, model={"attention": attention})
    for each in (plain, policy):
        each.model.double()
    batch = plain.encoder.collate(prompts_and_responses(plain, 2))
    tolerance = 1e-5 if attention == "eager" else 1e-10  # transformers' eager attention takes its softmax in float32
    with torch.no_grad():
        assert torch.allclose(policy.score(batch).per_token, plain.score(batch).per_token, rtol=0, atol=tolerance)


def test_auto_takes_the_attention_in_two_parts_and_generation_is_left_alone(make_policy: Any) -> None:
    policy = make_policy("llava")
    assert text_config(base_model(policy.model))._attn_implementation == SDPA
    assert "shared_prefix" not in base_model(policy.model).config.to_json_string()


def test_what_cannot_share_says_so(make_policy: Any) -> None:
    with pytest.raises(
        ValueError, match=r"flex_attention is for prompts shared between responses.*model\.attention=auto"
    ):
        make_policy("llava", model={"layout": "separate", "attention": "flex_attention"})
