"""Scoring equals a plain full forward of a plain transformers model, written out here, and its gradients are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText

from parallax.models.batch import ScoringBatch
from parallax.models.scoring.log_probs import token_log_probs
from parallax.records import Response
from tests.models.examples import FAMILIES, Picture, norms_in_full_precision, prompts_and_responses


def naive(model: Any, prompt: Any, response: torch.Tensor) -> torch.Tensor:
    """Per-token log-probs of one response by one full forward of one unpadded row. Shape: (R,)."""
    ids = torch.cat([prompt.input_ids, response])[None]
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name, value in prompt.vision.items():
        inputs[name] = value.double() if value.is_floating_point() else value
    for name, value in prompt.token_inputs.items():
        inputs[name] = torch.cat([value, torch.zeros(len(response), dtype=value.dtype)])[None]
    log_probs = model(**inputs).logits[0].log_softmax(-1)
    first = len(prompt.input_ids)
    return torch.stack([log_probs[first + j - 1, token] for j, token in enumerate(response)])


@pytest.mark.parametrize("negatives", [0, 1, 2, 3])
def test_scores_equal_one_full_forward_per_response(
    family: str, negatives: int, make_policy: Any, checkpoints: dict[str, Path]
) -> None:
    policy = make_policy(family)
    policy.model.double()
    plain = AutoModelForImageTextToText.from_pretrained(str(checkpoints[family]), dtype=torch.float64).eval()
    items = prompts_and_responses(policy, negatives)
    with torch.no_grad():
        result = policy.score(policy.encoder.collate(items))
        for row, (prompt, responses) in enumerate(items):
            for column, response in enumerate(responses):
                expected = naive(plain, prompt, response)
                assert result.counts[row, column] == len(response)
                assert torch.allclose(result.per_token[row, column, : len(response)], expected, rtol=0, atol=1e-10)
                assert torch.all(result.per_token[row, column, len(response) :] == 0)
                assert torch.allclose(result.total[row, column], expected.sum(), rtol=0, atol=1e-10)


def test_gradients_of_every_lora_weight_equal_the_plain_forward(family: str, make_policy: Any) -> None:
    policy = make_policy(family, learned=True)
    policy.model.double()
    norms_in_full_precision(policy.model)
    items = prompts_and_responses(policy, 2)
    weights = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3)
    (policy.score(policy.encoder.collate(items)).total * weights).sum().backward()
    ours = {name: value.grad.clone() for name, value in policy.trainable_parameters()}
    policy.model.zero_grad()
    rows = [[naive(policy.model, prompt, r).sum() for r in responses] for prompt, responses in items]
    (torch.stack([torch.stack(row) for row in rows]) * weights).sum().backward()
    for name, value in policy.trainable_parameters():
        assert torch.allclose(ours[name], value.grad, rtol=1e-8, atol=1e-10), name
    assert all(gradient.abs().sum() > 0 for gradient in ours.values())


def test_a_batch_scores_as_its_rows_one_by_one(family: str, make_policy: Any) -> None:
    policy = make_policy(family, learned=True)
    policy.model.double()
    items = prompts_and_responses(policy, 1)
    with torch.no_grad():
        together = policy.score(policy.encoder.collate(items)).total
        apart = torch.cat([policy.score(policy.encoder.collate([item])).total for item in items])
    assert torch.allclose(together, apart, rtol=0, atol=1e-10)


def test_logits_exist_at_response_positions_only(family: str, make_policy: Any) -> None:
    policy = make_policy(family, learned=True)
    batch = policy.encoder.collate(prompts_and_responses(policy, 2))
    vocabulary, scored = (
        policy.model.get_base_model().get_output_embeddings().weight.shape[0],
        int(batch.response_lengths.sum()),
    )
    rows: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim and result.shape[-1] == vocabulary:
                rows.append(result.numel() // vocabulary)
            return result

    with Watch():
        policy.score(batch).total.sum().backward()
    assert max(rows) == scored, "one row of logits for each scored token, forward and backward"


def test_each_image_is_encoded_once_however_many_responses(family: str, make_policy: Any) -> None:
    policy = make_policy(family)
    images: list[int] = []
    core = policy.model.get_base_model().model
    tower = core.visual if family == "qwen2_5_vl" else core.vision_tower
    handle = tower.register_forward_pre_hook(lambda module, args: images.append(args[0].shape[0]))
    items = prompts_and_responses(policy, 3)
    policy.score(policy.encoder.collate(items))
    handle.remove()
    pixels = [prompt.vision["pixel_values"] for prompt, _ in items]
    expected = sum(value.shape[-4] if family == "llava_next" else value.shape[0] for value in pixels)
    assert images == [expected]


def test_one_train_step_prefers_the_chosen_more(family: str, make_policy: Any) -> None:
    policy = make_policy(family)
    policy.for_preference_training()
    batch = policy.encoder.collate(prompts_and_responses(policy, 1))
    optimiser = torch.optim.AdamW([value for _, value in policy.trainable_parameters()], lr=1e-2)

    def loss() -> torch.Tensor:
        with torch.no_grad(), policy.reference():
            reference = policy.score(batch).total
        ratio = policy.score(batch).total - reference
        return -torch.nn.functional.logsigmoid(0.1 * (ratio[:, 0] - ratio[:, 1])).mean()

    first = loss()
    assert torch.allclose(first, torch.tensor(2.0).log(), atol=1e-6)  # nothing learned yet: ln 2
    for _ in range(2):  # in the first step only lora_B moves
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    policy.touched()
    assert loss() < first - 1e-3


def test_activation_checkpointing_changes_no_gradient(make_policy: Any, family: str) -> None:
    policy = make_policy(family, learned=True)
    policy.for_preference_training()
    batch = policy.encoder.collate(prompts_and_responses(policy, 1))
    gradients = []
    for enabled in (False, True):
        policy.activation_checkpointing(enabled)
        policy.model.zero_grad()
        policy.score(batch).total.sum().backward()
        gradients.append(torch.cat([value.grad.flatten() for _, value in policy.trainable_parameters()]))
    assert torch.equal(gradients[0], gradients[1])


def test_activation_checkpointing_leaves_a_frozen_vision_tower_without_a_backward_pass(make_policy: Any) -> None:
    policy = make_policy("llava", learned=True)
    policy.features = None
    policy.for_preference_training()
    policy.activation_checkpointing(True)
    made: list[torch.Tensor] = []
    projector = next(m for n, m in policy.model.named_modules() if n.endswith("multi_modal_projector"))
    projector.register_forward_hook(lambda module, inputs, output: made.append(output))
    policy.score(policy.encoder.collate(prompts_and_responses(policy, 1))).total.sum().backward()
    assert made and not any(features.requires_grad for features in made)
    assert any(value.grad.abs().sum() > 0 for _, value in policy.trainable_parameters())


def test_dropout_is_off_in_preference_training_and_back_in_supervised_training(make_policy: Any) -> None:
    policy = make_policy("llava", lora={"r": 4, "dropout": 0.5}, learned=True)
    batch = policy.encoder.collate(prompts_and_responses(policy, 1))
    with torch.no_grad():
        policy.for_preference_training()
        assert policy.model.training
        assert torch.equal(policy.score(batch).total, policy.score(batch).total)
        policy.for_supervised_training()
        assert not torch.equal(policy.score(batch).total, policy.score(batch).total)


@pytest.mark.parametrize("family", FAMILIES)
def test_dialogues_count_assistant_turns_and_their_end_tokens_only(family: str, make_policy: Any) -> None:
    policy = make_policy(family)
    encoder = policy.encoder
    turns = [("What is shown?", "A red square."), ("How many?", "Two shapes")]
    long, short = (
        encoder.encode_dialogue(Picture(1).load(), turns),
        encoder.encode_dialogue(Picture(2).load(), turns[:1]),
    )
    learned = long.input_ids[long.labels_mask].tolist()
    ends = [index for index, token in enumerate(learned) if token == encoder.chat.end_token_id]
    assert len(ends) == 2 and ends[1] == len(learned) - 1
    assert encoder.decode(learned[: ends[0]]) == "A red square."
    assert encoder.decode(learned[ends[0] + 1 :]) == "Two shapes"
    batch = encoder.collate_dialogues([long, short])
    result = policy.score(batch)
    assert result.counts[:, 0].tolist() == [int(long.labels_mask.sum()), int(short.labels_mask.sum())]
    prompt = encoder.encode_prompt(Picture(2).load(), "What is shown?")
    alone = policy.score(encoder.collate([(prompt, [encoder.encode_response(Response("A red square."))])]))
    assert torch.allclose(result.total[1], alone.total[0], atol=1e-5)


def test_half_precision_logits_are_normalised_in_float32() -> None:
    logits = torch.tensor([[10.0, 0.0, -10.0]], dtype=torch.bfloat16)
    expected = logits.float().log_softmax(-1)[0, 1]
    assert token_log_probs(logits, torch.tensor([1])).dtype == torch.float32
    assert torch.allclose(token_log_probs(logits, torch.tensor([1]))[0], expected)


def test_a_batch_says_where_it_is_scored_and_its_tokens_stay_on_the_host(make_policy: Any) -> None:
    policy = make_policy("qwen2_5_vl")
    batch = policy.encoder.collate(prompts_and_responses(policy, 1)).to("meta")
    assert isinstance(batch, ScoringBatch)
    assert batch.device == torch.device("meta") and not batch.prompt_ids.is_meta


def test_prompts_with_different_numbers_of_responses_are_refused(make_policy: Any) -> None:
    policy = make_policy("llava")
    items = prompts_and_responses(policy, 1)
    items[1][1].pop()
    with pytest.raises(ValueError, match="same number of responses"):
        policy.encoder.collate(items)
