"""Batched decoding says what one-at-a-time decoding says, and a sampled row depends on its own seed alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from parallax.models.encoding.prompt_encoder import PromptTooLong
from parallax.models.generation import rollout, sampling
from parallax.models.generation.requests import GenerationRequest
from parallax.models.generation.sampling import TokenPicker, near_tie_margin, sample
from parallax.records import BadImage, Decoding, ViewSpec
from tests.models.examples import QUESTIONS, Picture, ragged


def test_batched_greedy_equals_one_at_a_time_token_for_token(family: str, make_policy: Any) -> None:
    policy = make_policy(family, learned=True)
    requests = ragged(20)
    apart = policy.generate(requests, batch_size=1)
    assert policy.last_generation.near_ties == 0
    for batch_size in (3, 20):
        assert policy.generate(requests, batch_size=batch_size) == apart
        assert policy.last_generation.near_ties == 0
    assert len({answer.token_ids for answer in apart}) > 12


def test_greedy_equals_the_librarys_own_generate(family: str, make_policy: Any, checkpoints: dict[str, Path]) -> None:
    policy = make_policy(family)
    plain = AutoModelForImageTextToText.from_pretrained(str(checkpoints[family])).eval()
    requests = ragged(8)
    for request, answer in zip(requests, policy.generate(requests, batch_size=8), strict=True):
        prompt = policy.encoder.encode_prompt(request.image.load(), request.prompt, request.view)
        inputs = {name: value[None] for name, value in prompt.token_inputs.items()} | prompt.vision
        output = plain.generate(
            input_ids=prompt.input_ids[None],
            attention_mask=torch.ones(1, len(prompt.input_ids), dtype=torch.long),
            max_new_tokens=request.decoding.max_new_tokens,
            do_sample=False,
            suppress_tokens=sorted(policy.encoder.never_said),  # no answer holds a control token
            **inputs,
        )
        assert output[0, len(prompt.input_ids) :].tolist() == list(answer.token_ids)


def test_answers_come_in_the_order_of_the_requests(make_policy: Any) -> None:
    policy = make_policy("llava")
    requests = ragged(12)
    answers = policy.generate(requests, batch_size=5)
    assert policy.generate(requests[::-1], batch_size=5) == answers[::-1]
    assert [len(a.token_ids) <= r.decoding.max_new_tokens for a, r in zip(answers, requests, strict=True)] == [
        True
    ] * 12


def test_sampled_rows_do_not_depend_on_batch_or_order(family: str, make_policy: Any) -> None:
    policy = make_policy(family)
    requests = ragged(14, temperature=1.0)
    torch.manual_seed(0)
    answers = policy.generate(requests, batch_size=14)
    torch.manual_seed(1)
    assert policy.generate(requests[::-1], batch_size=4)[::-1] == answers
    assert policy.generate(requests[3:4], batch_size=1) == answers[3:4]


def test_another_seed_says_something_else_and_greedy_rows_beside_it_do_not_change(make_policy: Any) -> None:
    policy = make_policy("llava")
    greedy = ragged(4)
    sampled = [
        GenerationRequest("s", Picture(1), "What is shown?", ViewSpec(), Decoding(12, 1.0, 1.0, seed))
        for seed in range(6)
    ]
    mixed = policy.generate([*greedy, *sampled], batch_size=10)
    assert mixed[:4] == policy.generate(greedy, batch_size=10)
    assert len({answer.token_ids for answer in mixed[4:]}) == 6


def test_rows_end_at_any_of_the_end_tokens_and_are_taken_out(make_policy: Any) -> None:
    policy = make_policy("llava")
    requests = ragged(10)
    unfinished = policy.generate(requests, batch_size=10)
    assert not any(answer.finished for answer in unfinished)
    third = {answer.token_ids[2] for answer in unfinished}
    policy.encoder.end_token_ids = (policy.encoder.end_token_ids[0], *sorted(third))
    for answer, before in zip(policy.generate(requests, batch_size=10), unfinished, strict=True):
        first = next(i for i, token in enumerate(before.token_ids) if token in policy.encoder.end_token_ids)
        assert answer.finished
        assert answer.token_ids == before.token_ids[: first + 1]


def test_a_picture_seen_by_several_rows_is_encoded_once(make_policy: Any) -> None:
    policy = make_policy("llava")
    view = ViewSpec("diffusion", {"noise_steps": 500}, seed=3)
    looks = [(Picture(1), ViewSpec()), (Picture(1), view), (Picture(1), ViewSpec()), (Picture(2), ViewSpec())]
    requests = [GenerationRequest("s", p, q, v, Decoding(5)) for p, v in looks for q in QUESTIONS[:2]]
    together = policy.generate(requests, batch_size=8)
    assert policy.last_generation.images_encoded == 3
    assert together == policy.generate(requests, batch_size=1)


def test_prompts_of_a_judge_about_one_image_meet_in_a_batch_and_encode_it_once(make_policy: Any) -> None:
    policy = make_policy("llava")
    critic = "Here is an answer: it is a square. Is it right? Say yes or no, and why. "
    requests = [
        GenerationRequest(f"{i}", Picture(i), critic * (1 + k), ViewSpec(), Decoding(4 + 3 * k))
        for k in range(3)
        for i in range(6)
    ]
    answers = policy.generate(requests, batch_size=6)
    assert policy.last_generation.images_encoded == 6  # 18 prompts
    assert answers == policy.generate(requests, batch_size=1)


def test_what_is_finished_is_handed_over_batch_by_batch(make_policy: Any) -> None:
    policy = make_policy("llava")
    requests, batches = ragged(7), []
    answers = policy.generate(requests, batch_size=3, finished=batches.append)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert {place: answer for batch in batches for place, answer in batch.items()} == dict(enumerate(answers))


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_inverse_transform_sampling_follows_the_nucleus(top_p: float) -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.25, 0.15])
    count = 20000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = sample(
        probabilities.log().expand(count, -1),
        torch.ones(count, dtype=torch.float64),
        torch.full((count,), top_p, dtype=torch.float64),
        uniform,
    )
    kept = torch.tensor([0.1, 0.5, 0.25, 0.15] if top_p == 1.0 else [0.0, 0.5, 0.25, 0.0])
    shares = torch.bincount(drawn, minlength=4) / count
    assert torch.allclose(shares, kept / kept.sum(), atol=1e-3)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sorting_logits_draws_what_sorting_probabilities_draws(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does against what a CPU does, over logits of which many are equal."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(400, 500, generator=generator) * 8).round(decimals=1)
    settings = torch.full((400,), 0.7, dtype=torch.float64), torch.full((400,), top_p, dtype=torch.float64)
    uniform = torch.rand(400, dtype=torch.float64, generator=generator)
    expected = sample(logits, *settings, uniform)
    monkeypatch.setattr(sampling, "in_order", sampling._by_logits)
    assert torch.equal(sample(logits, *settings, uniform), expected)


def test_the_ready_mask_is_on_in_the_default_layout_and_changes_no_bit(
    make_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, requests = make_policy("llava", learned=True), ragged(9)
    ranks: list[int] = []
    step = rollout.Rollout._step

    def noted(self: Any, picked: Any, mask: Any, following: Any, cache: Any) -> Any:
        ranks.extend([] if mask is None else [mask.ndim])
        logits.append(step(self, picked, mask, following, cache))
        return logits[-1]

    monkeypatch.setattr(rollout.Rollout, "_step", noted)
    found = []
    for kernels in (rollout.READY_MASKS, ()):
        monkeypatch.setattr(rollout, "READY_MASKS", kernels)
        logits: list[Any] = []
        policy.generate(requests, batch_size=9)
        found.append(logits)
    assert set(ranks) == {2, 4}
    assert ranks.index(4) == 0
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_temperature_sharpens() -> None:
    logits = torch.tensor([0.0, 1.0]).expand(1000, -1)
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    ones = torch.ones(1000, dtype=torch.float64)
    share = sample(logits, 0.5 * ones, ones, uniform).float().mean()
    assert abs(share - torch.sigmoid(torch.tensor(2.0))) < 2e-3


def test_near_ties_are_counted() -> None:
    picker = TokenPicker([Decoding(2), Decoding(2), Decoding(2, 1.0, 1.0, 7)], torch.device("cpu"))
    logits = torch.tensor([[1.0, 1.0 + 1e-7, 0.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    _, near = picker.pick(logits, torch.arange(3), 0, torch.float32)
    assert near.tolist() == [True, False, False]  # a sampled row has no tie
    assert near_tie_margin(logits, torch.bfloat16)[0] > near_tie_margin(logits, torch.float32)[0]


class Unreadable(Picture):
    def load(self) -> Any:
        raise BadImage("the image x.png is cut short; replace the file")


def test_bad_requests_raise_or_are_set_aside_with_their_reason(make_policy: Any) -> None:
    policy = make_policy("llava")
    good = ragged(2)
    bad = GenerationRequest("bad", Unreadable(1), "What?", ViewSpec(), Decoding(3))
    long = GenerationRequest("long", Picture(1), "What? " * 400, ViewSpec(), Decoding(3))
    cut = GenerationRequest("cut", Picture(1), "What?", ViewSpec(), Decoding(1000))
    with pytest.raises(BadImage):
        policy.generate([bad])
    with pytest.raises(PromptTooLong, match="context"):
        policy.generate([long])
    reasons: dict[str, str] = {}
    answers = policy.generate(
        [good[0], bad, long, cut, good[1]], set_aside=lambda request, why: reasons.__setitem__(request.sample_id, why)
    )
    assert [answer is None for answer in answers] == [False, True, True, True, False]
    assert "cut short" in reasons["bad"] and "context" in reasons["long"] and "max_new_tokens" in reasons["cut"]


def test_answers_are_made_in_the_stated_precision_even_under_autocast(make_policy: Any) -> None:
    policy = make_policy("llava", learned=True)
    answers = policy.generate(ragged(4))
    seen: list[torch.dtype] = []
    head = policy.model.get_base_model().lm_head
    handle = head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert policy.generate(ragged(4)) == answers
    handle.remove()
    assert set(seen) == {torch.float32}


def test_progress_adds_up(make_policy: Any) -> None:
    policy = make_policy("llava")
    done: list[int] = []
    policy.generate(ragged(7), batch_size=3, progress=done.append)
    assert done == [3, 3, 1]


def test_generating_leaves_the_training_mode_as_it_was(make_policy: Any) -> None:
    policy = make_policy("llava")
    policy.for_preference_training()
    policy.generate(ragged(1))
    assert policy.model.training and policy.model.get_base_model().model.language_model.layers[0].training


def test_an_adapter_that_learned_nothing_is_out_of_the_way_and_back_afterwards(make_policy: Any) -> None:
    policy, seen = make_policy("llava"), []
    layer = policy.model.get_base_model().model.language_model.layers[0].self_attn.q_proj
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    names = list(dict(policy.model.named_modules()))
    fresh = policy.generate(ragged(3))
    assert not seen and list(dict(policy.model.named_modules())) == names
    policy.touched()  # as if it had been trained: now it is asked, and still adds nothing
    assert policy.generate(ragged(3)) == fresh and seen
    handle.remove()


def test_answers_out_of_logits_that_are_no_numbers_are_set_aside(make_policy: Any) -> None:
    policy = make_policy("llava")
    request = GenerationRequest("a", Picture(1), "What is shown?", ViewSpec(), Decoding(4))
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[5] = float("nan")
    reasons: list[str] = []
    assert policy.generate([request], set_aside=lambda _, why: reasons.append(why)) == [None]
    assert "logits are not finite numbers for the image 'picture:1' and the prompt 'What is shown?'" in reasons[0]
    with pytest.raises(ValueError, match="not finite"):
        policy.generate([request])


def test_a_prompt_without_its_image_says_what_the_library_says_beside_rows_with_images(
    family: str, make_policy: Any
) -> None:
    policy = make_policy(family, learned=True)
    asked = ragged(6)
    bare = [replace(request, view=ViewSpec("no_image")) for request in asked[:3]]
    mixed = policy.generate([*asked, *bare], batch_size=9)
    assert mixed == policy.generate(asked, batch_size=6) + policy.generate(bare, batch_size=1)
    placeholder = policy.encoder.chat.placeholder_ids
    for request, answer in zip(bare, mixed[6:], strict=True):
        prompt = policy.encoder.encode_prompt(request.image.load(), request.prompt, request.view)
        assert not prompt.vision and placeholder.isdisjoint(prompt.input_ids.tolist())
        said = policy.model.generate(
            input_ids=prompt.input_ids[None],
            max_new_tokens=request.decoding.max_new_tokens,
            do_sample=False,
            suppress_tokens=sorted(policy.encoder.never_said),
        )
        assert said[0, len(prompt.input_ids) :].tolist() == list(answer.token_ids)
