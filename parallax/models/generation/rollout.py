"""One batch from encoded prompts to token ids.

Prompts are read in parts of a few rows, padded on the left, with positions of their own; then all rows are decoded
together. Rows that have ended are taken out of the batch together with their keys and values, so that the last long answer
does not drag the others along. What the host has to know (which rows have ended) it learns from the picked tokens, in one
device-to-host sync per step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallax.models.backbone import base_model, positions, text_config
from parallax.models.encoding.image_features import ImageInputs
from parallax.models.foreign import VLM
from parallax.models.generation.kv_cache import Cache, has_full_attention, joined, keep_rows, new_cache
from parallax.models.generation.prefetch import EncodedPart, pad_left
from parallax.models.generation.requests import GenerationCounts
from parallax.models.generation.sampling import TokenPicker
from parallax.models.scoring.shared_prefix import FLEX, SDPA
from parallax.models.scoring.varlen_attention import VARLEN
from parallax.records import Decoding

log = logging.getLogger(__name__)

KEEP_SHARE = 0.75  # rows are compacted when no more than this share of them is still going
READY_MASKS = (
    "sdpa",
    "eager",
    SDPA,
    FLEX,
    VARLEN,
)  # kernels that take a mask of numbers
ROOM = 64  # columns for new tokens that a batch starts with; fewer where fewer are allowed


@dataclass
class _ReadPart:
    """Prompts the model has read: N rows of width S."""

    logits: Tensor  # (N, V) of the next token
    cache: Any
    lengths: list[int]  # prompt tokens of each row; the rest of its S columns, on the left, is padding
    width: int  # S
    following: Tensor  # (N,) position of the next token


class Rollout:
    """A batch under way: `read` its parts, then `answers`.

    Args:
        model: the policy's network, in evaluation mode.
        pad: token id that fills up rows.
        ends: token ids that end an answer.
        counts: tokens, near-ties and images encoded are added here.
        never_said: token ids that no answer may hold; where one would be picked, the pick is made again without them.
        heard: given all rows' token ids so far, after every step.
    """

    def __init__(
        self,
        model: VLM,
        *,
        pad: int,
        ends: Iterable[int],
        counts: GenerationCounts,
        never_said: Iterable[int] = (),
        heard: Callable[[list[list[int]]], None] | None = None,
    ) -> None:
        self.model = base_model(model)
        self.heard = heard
        self.never_said = frozenset(never_said) - frozenset(ends)
        self.pad, self.ends, self.counts = pad, frozenset(ends), counts
        parameter = next(self.model.parameters())
        self.device, self.dtype = parameter.device, self.model.get_input_embeddings().weight.dtype
        self.config = text_config(self.model)
        self.in_parts = has_full_attention(self.config)
        # a ready mask of numbers is used as it is; one of 0 and 1 is made into one in every step
        implementation = getattr(self.config, "_attn_implementation", None)
        self.ready_mask = self.in_parts and implementation in READY_MASKS
        self.position_axes: tuple[int, ...] = ()  # of multimodal rotary positions
        self._images: ImageInputs | None = None  # of all parts so far
        self._place_of: dict[Hashable, int] = {}  # look -> its place among them
        self._parts: list[_ReadPart] = []
        self._unread: list[tuple[dict[str, Any], Hashable]] = []
        self._decodings: list[Decoding] = []
        self.broken: set[int] = (
            set()
        )  # rows whose logits were not finite numbers at some step, in the order they were read

    def read(self, part: EncodedPart, decodings: Sequence[Decoding], looks: Sequence[Hashable]) -> None:
        """Take some rows in. `looks`: rows with equal ones show the model the same pixels, which are encoded once."""
        prompts = EncodedPart(part.places, part.lengths, part.tensors.to(self.device), []).prompts()
        self._decodings += decodings
        if self.in_parts:
            self._parts.append(self._prefill(prompts, looks))
        else:  # caches with windows cannot be joined
            self._unread += zip(prompts, looks, strict=True)

    def answers(self) -> list[list[int]]:
        """Token ids of every row in the order they were read, with the end token where one was reached."""
        if self._unread:
            self._parts.append(
                self._prefill([prompt for prompt, _ in self._unread], [look for _, look in self._unread])
            )
        limits = [decoding.max_new_tokens for decoding in self._decodings]
        longest = max(limits)
        picker = TokenPicker(self._decodings, self.device)
        logits, cache, mask, following = self._joined(min(longest, ROOM))
        rows = list(range(len(limits)))  # original number of each row in the batch
        numbers = torch.arange(len(limits), device=self.device)  # the same, for the picker
        tokens: list[list[int]] = [[] for _ in rows]
        ended = [False] * len(rows)
        for step in range(longest):
            picked, near = picker.pick(logits, numbers, step, self.dtype)
            broken = ~logits.amax(-1).isfinite()  # NaN and infinity come out as the largest
            drawn, ties, bad = torch.stack([picked, near.long(), broken.long()]).tolist()  # the one sync of a step
            if not self.never_said.isdisjoint(drawn):
                banned = torch.tensor(sorted(self.never_said), device=self.device)
                picked = picker.pick_again(logits, numbers, step, picked, banned[banned < logits.shape[-1]])
                drawn = picked.tolist()
            if step == 0 and not self.counts.tokens:
                log.debug(
                    "first token, of the first %d answers", len(rows)
                )  # benchmarks/start_up.py looks for this line
            for row, token, tie, wrong in zip(rows, drawn, ties, bad, strict=True):
                if not ended[row]:
                    if wrong:
                        self.broken.add(row)
                        ended[row] = True
                        continue
                    tokens[row].append(token)
                    self.counts.near_ties += tie
                    ended[row] = token in self.ends or step + 1 == limits[row]
            if self.heard is not None:
                self.heard(tokens)
            going = [place for place, row in enumerate(rows) if not ended[row]]
            if not going:
                break
            if len(going) <= KEEP_SHARE * len(rows):
                rows = [rows[place] for place in going]
                chosen = torch.tensor(going, device=self.device)
                more = min(max(limits[row] for row in rows) - step - 1, ROOM)
                mask.keep(going, keep_rows(cache, chosen, mask.free(going), more))
                numbers, picked, following = numbers[chosen], picked[chosen], following[chosen]
            logits = self._step(picked, mask.next(), following, cache)
            following = following + 1
        self.counts.tokens += sum(map(len, tokens))
        return tokens

    def _prefill(self, prompts: Sequence[dict[str, Any]], looks: Sequence[Hashable]) -> _ReadPart:
        lengths = [len(prompt["input_ids"]) for prompt in prompts]
        width = max(lengths)
        ids = pad_left([prompt["input_ids"] for prompt in prompts], self.pad, width)
        columns = torch.arange(width, device=self.device)
        mask = columns >= width - torch.tensor(lengths, device=self.device)[:, None]
        names = {name for prompt in prompts for name in prompt["token_inputs"]}
        token_inputs = {
            name: pad_left([prompt["token_inputs"][name] for prompt in prompts], 0, width) for name in names
        }
        visions = [prompt["vision"] for prompt in prompts]
        position_ids, following = positions(self.model, ids, mask, visions, token_inputs)
        self.position_axes = tuple(position_ids.shape[:-2])
        cache = new_cache(self.config)
        output = self.model(
            input_ids=ids,
            attention_mask=None if min(lengths) == width else mask.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **token_inputs,
            **self._seen(visions, looks),
        )
        return _ReadPart(output.logits[:, -1], cache, lengths, width, following)

    def _seen(self, visions: Sequence[dict[str, Tensor]], looks: Sequence[Hashable]) -> dict[str, Any]:
        """The images of some rows as the model takes them; those this batch has not met before are encoded now."""
        new = {look: row for row, look in reversed(list(enumerate(looks))) if look not in self._place_of}
        if new:
            for look in new:
                self._place_of[look] = len(self._place_of)
            more = ImageInputs(self.model, [visions[row] for row in new.values()], self.dtype)
            self.counts.images_encoded += sum(bool(visions[row]) for row in new.values())
            if self._images is None:
                self._images = more
            else:
                self._images.add(more)
        assert self._images is not None
        return self._images.selected([self._place_of[look] for look in looks])

    def _joined(self, more: int) -> tuple[Tensor, Any, _Mask, Tensor]:
        """All parts as one batch, with room for `more` new tokens: logits, cache, mask, next positions."""
        parts = self._parts
        width = max(part.width for part in parts)
        lengths = [length for part in parts for length in part.lengths]
        mask = _Mask(
            [width - length for length in lengths], width, self.device, self.dtype if self.ready_mask else None
        )
        cache = joined([part.cache for part in parts], more) if self.in_parts else parts[0].cache
        return torch.cat([part.logits for part in parts]), cache, mask, torch.cat([part.following for part in parts])

    def _step(self, picked: Tensor, mask: Tensor | None, following: Tensor, cache: Cache) -> Tensor:
        output = self.model(
            input_ids=picked[:, None],
            attention_mask=mask,
            position_ids=following[:, None].expand(*self.position_axes, -1, -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


class _Mask:
    """Which columns the newest token of each row looks at: all but the padding on the left.

    Args:
        pads: columns of padding of each row.
        used: columns so far.
        dtype: of a ready additive mask of shape (N, 1, 1, columns); None gives one of 0 and 1 of shape (N, columns).
    """

    def __init__(self, pads: list[int], used: int, device: torch.device, dtype: torch.dtype | None) -> None:
        self.pads, self.used, self.device, self.dtype = pads, used, device, dtype
        self._build()

    def next(self) -> Tensor | None:
        """The mask for one column more; None when no row has any padding."""
        self.used += 1
        if max(self.pads) == 0:
            return None
        if self.used > self._columns.shape[-1]:
            self._build()
        return self._columns[..., : self.used]

    def free(self, going: Sequence[int]) -> int:
        """Columns that are padding for each of these rows."""
        return min(self.pads[place] for place in going)

    def keep(self, going: Sequence[int], dropped: int) -> None:
        """Keep these rows, without the first `dropped` columns."""
        self.pads, self.used = [self.pads[place] - dropped for place in going], self.used - dropped
        self._build()

    def _build(self) -> None:
        """The columns of tokens to come are in the buffer already, so that a step takes a slice and computes nothing."""
        columns = torch.arange(self.used + ROOM, device=self.device)
        real = columns >= torch.tensor(self.pads, device=self.device)[:, None]
        if self.dtype is None:
            self._columns = real.long()
        else:
            mask = torch.zeros(real.shape, dtype=self.dtype, device=self.device)
            self._columns = mask.masked_fill_(~real, torch.finfo(self.dtype).min)[:, None, None]
