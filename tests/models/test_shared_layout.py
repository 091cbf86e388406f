"""One row per image scores exactly what one row per response scores, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parallax.models.batch import EncodedPrompt
from parallax.models.scoring import score
from parallax.models.separate_layout import separate_sequences
from parallax.models.shared_layout import can_share, prefix_mask, shared_prefix
from tests.models.examples import SIZES, Picture, norms_in_full_precision, prompts_and_responses


def random_items(policy: Any, seed: int) -> list[tuple[EncodedPrompt, list[torch.Tensor]]]:
    """Ragged prompts, images and responses; between one and five responses, some of a single token."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    responses = draw(1, 6)
    items = []
    for row in range(draw(1, 4)):
        picture = Picture(seed * 10 + row, SIZES[draw(0, 3)])
        prompt = policy.encoder.encode_prompt(picture.load(), "What is shown here? " * draw(1, 5))
        items.append((prompt, [torch.randint(10, 300, (draw(1, 9),), generator=generator) for _ in range(responses)]))
    return items


@pytest.mark.parametrize("seed", range(4))
def test_shared_prefix_equals_separate_sequences(family: str, seed: int, make_policy: Any) -> None:
    policy = make_policy(family, learned=True)
    assert can_share(policy.model.get_base_model())
    norms_in_full_precision(policy.model)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        policy.model.to(dtype)
        batch = policy.encoder.collate(random_items(policy, seed))
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
        assert torch.allclose(separate, shared, rtol=0, atol=tolerance)
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
    with pytest.raises(ValueError, match=r"model\.layout=other"):
        make_policy("llava", model={"layout": "other"})
