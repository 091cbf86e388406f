"""Batches as the policy and the training loop see them. Tensors and names only; prompts and responses stay apart.

Keeping prompts and responses apart leaves open how they are laid out for the model: one sequence per response, or one
sequence per image with a shared prompt. The layout is chosen by the scorer, and every layout gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from parallax.models.encoding.image_features import ImageFeatures
from parallax.models.foreign import VLM
from parallax.models.packed_tensors import Packed

T = TypeVar("T")


def _map_tensors(value: object, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every tensor inside lists, tuples, dicts and dataclasses; everything else is kept."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _map_tensors(getattr(value, f.name), change) for f in fields(value) if f.init})
    return value


def _halves(value: T, size: int) -> tuple[T, T]:
    """A dataclass whose tensors and lists have `size` rows, cut in two."""

    def cut(item: Any, rows: slice) -> Any:
        if isinstance(item, ScoringBatch):
            return _cut(item, rows)
        if isinstance(item, dict):
            return {name: part[rows] for name, part in item.items()}
        if isinstance(item, list) and item and isinstance(item[0], ScoringBatch):
            return [_cut(look, rows) for look in item]
        return item[rows] if isinstance(item, Tensor | list) else item

    def _cut(whole: Any, rows: slice) -> Any:
        return replace(whole, **{field.name: cut(getattr(whole, field.name), rows) for field in fields(whole)})

    middle = size // 2
    return _cut(value, slice(None, middle)), _cut(value, slice(middle, None))


def sent(values: Any, device: torch.device | None) -> Any:
    """A nest of host tensors on `device`, in one copy for each type that nobody waits for; None leaves them where they are."""
    if device is None or device.type == "cpu":
        return values
    packed = Packed.of(values)
    return (packed.pin_memory() if device.type == "cuda" else packed).to(device).values()


class _Movable:
    """`.to(device)` and `.pin_memory()` for dataclasses of tensors; both return a new object.

    Between processes the tensors of one travel in a buffer for each type, however many they are: each tensor of its own would
    take a file descriptor, and a step of 128 images more of them than a process may have open.
    """

    def __reduce__(self) -> tuple[Callable[[Packed], Any], tuple[Packed]]:
        return Packed.values, (Packed.of(self),)

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        result: T = _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return result

    def pin_memory(self: T) -> T:
        result: T = Packed.of(self).pin_memory().values()
        return result


@dataclass
class EncodedPrompt(_Movable):
    """One image with one prompt, ready for the model. P counts the expanded image tokens too.

    `vision` is what the image processor gave for this image (`pixel_values` with whatever leading dimension its family
    uses, `image_sizes`, `image_grid_thw`, …); `token_inputs` are further inputs with one value per token, such as
    `mm_token_type_ids`; a response token gets 0 there.
    """

    input_ids: Tensor  # (P,) int64
    vision: dict[str, Tensor]
    token_inputs: dict[str, Tensor] = field(default_factory=dict)  # each (P,)

    def followed_by(self, ids: Sequence[int]) -> EncodedPrompt:
        """With some tokens of an answer behind it."""
        if not ids:
            return self
        longer = {name: torch.cat([value, value.new_zeros(len(ids))]) for name, value in self.token_inputs.items()}
        return EncodedPrompt(torch.cat([self.input_ids, self.input_ids.new_tensor(ids)]), self.vision, longer)


@dataclass
class EncodedDialogue(_Movable):
    """A whole dialogue about one image. `labels_mask` is True on the tokens to learn: assistant turns and their end tokens."""

    input_ids: Tensor  # (S,) int64
    labels_mask: Tensor  # (S,) bool
    vision: dict[str, Tensor]
    token_inputs: dict[str, Tensor] = field(default_factory=dict)  # each (S,)


@dataclass
class ScoringBatch(_Movable):
    """B prompts, each with its own 1 + K responses (chosen first). All padding is on the right.

    Its tensors stay on the host: rows are laid out there, where lengths are known without waiting for a GPU. `device` says
    where the model computes; what a pass needs goes there at once, pixels and features image by image.
    """

    prompt_ids: Tensor  # (B, P) int64
    prompt_lengths: Tensor  # (B,) int64
    response_ids: Tensor  # (B, 1 + K, R) int64
    response_lengths: Tensor  # (B, 1 + K) int64, end token included
    vision: list[dict[str, Tensor]]  # B entries: the image of each prompt
    token_inputs: dict[str, Tensor] = field(default_factory=dict)  # each (B, P)
    response_mask: Tensor | None = None  # (B, 1 + K, R) bool: response tokens that count; None = all
    response_weights: Tensor | None = None  # (B, 1 + K, R) float: how much each token counts in the sum; None = 1
    image_names: list[str] | None = None  # B names of what the tower sees, for a feature cache; None = not to be kept
    features: list[ImageFeatures] | None = None  # B ready image features; None = made from the pixels
    target_ids: Tensor | None = None  # (B, 1 + K, R): tokens scored in place of the response's own; None = its own
    device: torch.device | None = None  # None: where the tensors are

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ScoringBatch:
        """To be scored on `device`."""
        return replace(self, device=torch.device(device))

    def __post_init__(self) -> None:
        batch, responses, _ = self.response_ids.shape
        if self.prompt_ids.shape[0] != batch or len(self.vision) != batch:
            raise ValueError(
                f"a scoring batch needs as many prompts as images and response groups, got {self.prompt_ids.shape[0]} "
                f"prompts, {len(self.vision)} images and {batch} response groups"
            )
        if self.response_lengths.shape != (batch, responses) or self.prompt_lengths.shape != (batch,):
            raise ValueError("prompt_lengths must be (B,) and response_lengths (B, 1 + K) of the same batch")

    def __len__(self) -> int:
        return int(self.response_ids.shape[0])

    @property
    def responses_per_prompt(self) -> int:
        """1 + K."""
        return int(self.response_ids.shape[1])

    def halves(self) -> tuple[ScoringBatch, ScoringBatch]:
        """The first half of its prompts, and the others."""
        return _halves(self, len(self))

    def counted(self) -> Tensor:
        """Which response tokens are scored. Shape: (B, 1 + K, R) bool."""
        positions = torch.arange(self.response_ids.shape[2], device=self.response_ids.device)
        inside = positions < self.response_lengths[..., None]
        return inside if self.response_mask is None else inside & self.response_mask


@dataclass
class PairBatch(_Movable):
    """A micro-batch of preference pairs. `reference_log_probs` is None when the reference is scored live."""

    scoring: ScoringBatch
    reference_log_probs: Tensor | None  # (B, 1 + K + L) float32
    pair_ids: list[str]
    lengths: Tensor  # (B, 1 + K) int64: scored tokens of each response
    looks: list[ScoringBatch] = field(
        default_factory=list
    )  # answers beside other images; L responses of all of them together
    kinds: list[str] = field(default_factory=list)  # of the pairs, where they are said
    weight: float = 1.0  # 0.0: computed only to keep processes in step, its loss and metrics do not count

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """To be scored on `device`, where the reference's log-probs go now."""
        looks, reference = [look.to(device) for look in self.looks], self.reference_log_probs
        there = reference if reference is None else reference.to(device, non_blocking=non_blocking)
        return replace(self, scoring=self.scoring.to(device), looks=looks, reference_log_probs=there)

    def halves(self) -> tuple[PairBatch, PairBatch]:
        """The first half of its pairs, and the others."""
        return _halves(self, len(self))

    def __len__(self) -> int:
        return len(self.pair_ids)


@dataclass
class StepBatch(_Movable):
    """All that one optimiser step uses on this process. `pairs_in_step` counts pairs over all processes."""

    micro_batches: list[PairBatch]
    pairs_in_step: int

    def of_at_most(self, pairs: int) -> StepBatch:
        """The same step in micro-batches of at most so many pairs: larger ones are halved."""
        if all(len(batch) <= pairs for batch in self.micro_batches):
            return self
        parts = [half for batch in self.micro_batches for half in (batch.halves() if len(batch) > pairs else (batch,))]
        return replace(self, micro_batches=parts).of_at_most(pairs)

    def __len__(self) -> int:
        """Pairs of this process that count."""
        return sum(len(batch) for batch in self.micro_batches if batch.weight > 0)


@dataclass
class ResponseLogProbs:
    """Log-probabilities of given responses in float32 (float64 for a float64 model), chosen first."""

    total: Tensor  # (B, 1 + K): summed over the counted tokens
    counts: Tensor  # (B, 1 + K) int64: how many tokens were counted
    per_token: Tensor  # (B, 1 + K, R): 0 where not counted

    @classmethod
    def joined(cls, parts: Sequence[ResponseLogProbs]) -> ResponseLogProbs:
        """Those of several batches as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass
class Arranged:
    """One forward pass: what the model is called with, and where the prediction of each scored token is found.

    M counts the scored tokens of the whole batch, in row-major order of `ScoringBatch.counted()`.
    """

    inputs: dict[str, Any]  # keyword arguments of the model, tokens of shape (rows, S)
    predictors: Tensor  # (M,) int64: flattened (rows * S) positions whose output predicts each scored token
    targets: Tensor  # (M,) int64: the scored tokens
    images: dict[str, Any] = field(default_factory=dict)  # on the model's device, whatever the others are

    def to(self, device: torch.device | None, *beside: Tensor | None) -> tuple[Arranged, list[Any]]:
        """This pass, and tensors that belong to it, on the model's `device`; None: they are there already."""
        inputs, predictors, *rest = sent([self.inputs, self.predictors, *beside], device)
        return replace(self, inputs=inputs, predictors=predictors), rest


# Lays prompts and responses out as rows of tokens for a transformers model, adapters injected. All give the same log-probs.
Layout = Callable[[VLM, ScoringBatch], Arranged]
