"""What a family has to get right, step by step, through the code that runs use: `Policy.score`'s scorer and `Rollout`.

Each step compares with the plain way of transformers: one sequence at a time, pixels, no positions or masks of ours,
`log_softmax` and `gather`, `generate`. A step that goes wrong raises; what it says is the reason in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from parallax.models.backbone import base_model, on_responses
from parallax.models.batch import EncodedPrompt, Layout, ScoringBatch
from parallax.models.encoding.image_features import cast_vision, encode_images
from parallax.models.encoding.tower import takes_features
from parallax.models.foreign import VLM
from parallax.models.generation.prefetch import EncodedPart
from parallax.models.generation.requests import GenerationCounts
from parallax.models.generation.rollout import Rollout
from parallax.models.packed_tensors import Packed
from parallax.models.scoring import log_probs
from parallax.models.scoring.log_probs import separate_sequences
from parallax.records import Decoding

TOLERANCE = 1e-4  # of a log-prob, float32
EXACT = 1e-10  # of a log-prob, float64
NEW_TOKENS = 5


@dataclass
class Toy:
    """A toy model with prompts that show it images of different sizes, where its family takes such."""

    model: Any  # in evaluation mode, with or without LoRA
    prompts: list[EncodedPrompt]  # prompts[0] and prompts[1] look at different images
    others: list[EncodedPrompt]  # the same prompts about other images of the same sizes
    answers: list[list[Tensor]]  # of each prompt: token ids of two responses of different lengths

    def batch(self, prompts: Sequence[EncodedPrompt] | None = None) -> ScoringBatch:
        """All prompts with their responses."""
        return collated(self.prompts if prompts is None else prompts, self.answers)


class Wrong(Exception):
    """A step that came out wrong, in words."""


def collated(prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[Tensor]]) -> ScoringBatch:
    """As `PromptEncoder.collate`, for prompts that no encoder made."""
    from torch.nn.utils.rnn import pad_sequence

    width = max(len(answer) for row in answers for answer in row)
    names = prompts[0].token_inputs
    return ScoringBatch(
        prompt_ids=pad_sequence([prompt.input_ids for prompt in prompts], batch_first=True),
        prompt_lengths=torch.tensor([len(prompt.input_ids) for prompt in prompts]),
        response_ids=torch.stack(
            [torch.stack([torch.nn.functional.pad(a, (0, width - len(a))) for a in row]) for row in answers]
        ),
        response_lengths=torch.tensor([[len(answer) for answer in row] for row in answers]),
        vision=[prompt.vision for prompt in prompts],
        token_inputs={n: pad_sequence([p.token_inputs[n] for p in prompts], batch_first=True) for n in names},
    )


def plain_inputs(model: VLM, prompt: EncodedPrompt, answer: Tensor | None = None) -> dict[str, Tensor]:
    """One prompt, or one prompt with an answer, as transformers' own forward takes it."""
    network = base_model(model)
    more = answer if answer is not None else prompt.input_ids[:0]
    ids = torch.cat([prompt.input_ids, more])[None]
    tokens = {
        name: torch.cat([value, value.new_full((len(more),), on_responses(network, name))])[None]
        for name, value in prompt.token_inputs.items()
    }
    vision = cast_vision(prompt.vision, next(network.parameters()).dtype)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tokens, **vision}


@torch.no_grad()
def plain_log_probs(model: VLM, prompt: EncodedPrompt, answer: Tensor) -> Tensor:
    """The log-prob of every answer token by transformers' plain forward. Shape: (R,)."""
    logits = base_model(model)(**plain_inputs(model, prompt, answer), use_cache=False).logits[0]
    before = logits[len(prompt.input_ids) - 1 : -1]
    return before.log_softmax(-1).gather(-1, answer[:, None])[:, 0]


@torch.no_grad()
def scores_as_plain(toy: Toy, layout: Layout = separate_sequences, tolerance: float = TOLERANCE) -> None:
    """Log-probs of the whole batch are those of one sequence at a time."""
    found = log_probs.score(toy.model, toy.batch(), layout).per_token
    for row, (prompt, answers) in enumerate(zip(toy.prompts, toy.answers, strict=True)):
        for place, answer in enumerate(answers):
            expected = plain_log_probs(toy.model, prompt, answer)
            _close(found[row, place, : len(answer)], expected, tolerance, "log-probs differ from the plain forward's")


@torch.no_grad()
def no_leak(toy: Toy, layout: Layout = separate_sequences) -> None:
    """Other later answer tokens move no earlier log-prob; another image moves them."""
    before = log_probs.score(toy.model, toy.batch(), layout).per_token
    changed = [
        [torch.cat([answer[:-2], 20 + (answer[-2:] + 13) % 40]) for answer in answers] for answers in toy.answers
    ]
    after = log_probs.score(toy.model, collated(toy.prompts, changed), layout).per_token
    for row, answers in enumerate(toy.answers):
        for place, answer in enumerate(answers):
            kept = slice(0, len(answer) - 2)
            _close(
                after[row, place, kept], before[row, place, kept], 1e-5, "later answer tokens move earlier log-probs"
            )
    seen = log_probs.score(toy.model, toy.batch(toy.others), layout).per_token
    if torch.equal(seen, before):
        raise Wrong("another image changes nothing")


@torch.no_grad()
def ready_features(toy: Toy) -> bool:
    """Ready features give the numbers of pixels. False where the family takes pixels only."""
    network = base_model(toy.model)
    if not takes_features(network):
        return False
    batch = toy.batch()
    dtype = next(network.parameters()).dtype
    made = [encode_images(network, [cast_vision(prompt.vision, dtype)])[0] for prompt in toy.prompts]
    ready = log_probs.score(toy.model, replace(batch, features=made)).per_token
    _close(ready, log_probs.score(toy.model, batch).per_token, TOLERANCE, "ready image features give other log-probs")
    return True


@torch.no_grad()
def generates_as_plain(toy: Toy) -> None:
    """Greedy answers of a batch are those of `generate`, one prompt at a time."""
    network = base_model(toy.model)
    network.generation_config.eos_token_id = None
    made = rolled_out(toy, [Decoding(NEW_TOKENS)] * len(toy.prompts))
    for prompt, ids in zip(toy.prompts, made, strict=True):
        inputs = plain_inputs(network, prompt)
        output = network.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)[0]
        expected = output[-NEW_TOKENS:].tolist()
        if ids != expected:
            raise Wrong(f"greedy answers differ from generate's ({ids} and {expected})")


@torch.no_grad()
def samples_alike(toy: Toy) -> None:
    """Sampled answers do not depend on what shares the batch.

    A random toy likes all tokens about equally, and rounding may swap two of them in the order that sampling goes by: of three
    draws one has to come out alike.
    """
    for draw in range(3):
        seeds = range(len(toy.prompts) * draw, len(toy.prompts) * (draw + 1))
        decodings = [Decoding(NEW_TOKENS, temperature=1.0, top_p=0.9, seed=seed) for seed in seeds]
        together = rolled_out(toy, decodings)
        pairs = zip(toy.prompts, decodings, strict=True)
        alone = [rolled_out(replace(toy, prompts=[prompt]), [decoding])[0] for prompt, decoding in pairs]
        if alone == together:
            return
    raise Wrong(f"sampled answers depend on their batch ({alone} and {together})")


def rolled_out(toy: Toy, decodings: Sequence[Decoding]) -> list[list[int]]:
    """Answers of the generator that runs use, read in parts of two prompts."""
    rollout = Rollout(toy.model, pad=0, ends=(), counts=GenerationCounts())
    for start in range(0, len(toy.prompts), 2):
        prompts = toy.prompts[start : start + 2]
        tensors = [{"input_ids": p.input_ids, "token_inputs": p.token_inputs, "vision": p.vision} for p in prompts]
        places = list(range(start, start + len(prompts)))
        part = EncodedPart(places, [len(prompt.input_ids) for prompt in prompts], Packed.of(tensors), [])
        rollout.read(part, decodings[start : start + len(prompts)], places)
    return rollout.answers()


def learns(toy: Toy, layout: Layout = separate_sequences) -> None:
    """One step of DPO against a reference that was scored before lowers the loss and changes LoRA weights alone."""
    from torch.nn.functional import logsigmoid

    batch = toy.batch()
    with torch.no_grad(), toy.model.disable_adapter():
        reference = log_probs.score(toy.model, batch, layout).total
    trained = [value for value in toy.model.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1e-2)
    losses = []
    for _ in range(2):
        margins = log_probs.score(toy.model, batch, layout).total - reference
        loss = -logsigmoid(margins[:, :1] - margins[:, 1:]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    if not losses[1] < losses[0]:
        raise Wrong(f"one training step did not lower the loss ({losses[0]:.5f} to {losses[1]:.5f})")
    with torch.no_grad(), toy.model.disable_adapter():
        after = log_probs.score(toy.model, batch, layout).total
    _close(after, reference, 0.0, "a training step moved the reference")


@torch.no_grad()
def saves(toy: Toy, untouched: VLM, folder: Path) -> None:
    """The adapter loads with plain peft and the merged model with plain transformers; both answer as the policy does."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from parallax.models.saving import merged_state, save_adapter
    from parallax.models.sharding.base import Whole

    expected = [plain_log_probs(toy.model, p, a[0]) for p, a in zip(toy.prompts, toy.answers, strict=True)]
    save_adapter(toy.model, Whole(toy.model), folder / "adapter")
    with_adapter: Any = PeftModel.from_pretrained(untouched, str(folder / "adapter")).eval()
    ours = dict(base_model(toy.model).named_parameters())
    lost = [name for name, value in base_model(with_adapter).named_parameters() if not torch.equal(value, ours[name])]
    if lost:
        raise Wrong(f"plain peft leaves out {len(lost)} of the adapter's weights, such as {lost[0]}")
    merged = AutoModelForImageTextToText.from_config(untouched.config, dtype=torch.float32).eval()
    state = merged_state(base_model(toy.model), Whole(toy.model))
    left = merged.load_state_dict(state, strict=False)
    merged.tie_weights()
    if left.unexpected_keys:
        raise Wrong(f"merging gives weights the model does not have, such as {left.unexpected_keys[0]}")
    merged.save_pretrained(str(folder / "merged"))
    loaded = AutoModelForImageTextToText.from_pretrained(str(folder / "merged"), dtype=torch.float32).eval()
    for name, other in (("the adapter loaded by peft", with_adapter), ("the merged model", loaded)):
        for prompt, answers, value in zip(toy.prompts, toy.answers, expected, strict=True):
            _close(plain_log_probs(other, prompt, answers[0]), value, TOLERANCE, f"{name} gives other log-probs")


class InDouble(TorchFunctionMode):
    """Inside, what asks for float32 gets float64: norms and rotary positions are worked out in float32 whatever the model's type,
    and rounding there would hide what a layout does.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Iterable[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def shares(toy: Toy) -> bool:
    """Whether responses that share a prompt get the log-probs and the gradients of separate ones, in float64."""
    from parallax.models.scoring.shared_prefix import masks_can_say, shared_prefix

    network = base_model(toy.model)
    if not masks_can_say(network):
        return False
    doubled = replace(toy, model=deepcopy(toy.model).double())
    try:
        no_leak(doubled, shared_prefix)
        with torch.no_grad(), InDouble():
            scores = [
                log_probs.score(doubled.model, doubled.batch(), kind) for kind in (shared_prefix, separate_sequences)
            ]
        _close(scores[0].per_token, scores[1].per_token, EXACT, "log-probs differ")
        for one, other in zip(
            *(_gradients(doubled, kind) for kind in (shared_prefix, separate_sequences)), strict=True
        ):
            _close(one, other, EXACT, "gradients differ")
    except Exception:
        return False
    return True


@torch.no_grad()
def has_plain_head(toy: Toy) -> bool:
    """Whether the head's product with the hidden states is what the model gives as logits."""
    network = base_model(toy.model)
    if type(network.get_output_embeddings()) is not torch.nn.Linear:
        return False
    arranged = separate_sequences(network, toy.batch())
    hidden, logits = log_probs._forward(network, arranged, through_head=True)
    return bool(torch.allclose(network.get_output_embeddings()(hidden), logits, rtol=0, atol=1e-6))


def _gradients(toy: Toy, layout: Layout) -> list[Tensor]:
    toy.model.zero_grad()
    weights = torch.tensor([1.0, -0.5], dtype=torch.float64)
    with InDouble():
        total = log_probs.score(toy.model, toy.batch(), layout).total
    (total * weights).sum().backward()  # type: ignore[no-untyped-call]
    return [value.grad.clone() for value in toy.model.parameters() if value.grad is not None]


def _close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    if not bool(torch.isfinite(found).all()):
        raise Wrong(f"{what}: they are not finite")
    worst = float((found - expected).abs().max()) if found.numel() else 0.0
    if worst > tolerance:
        raise Wrong(f"{what} (by {worst:.1e})")
