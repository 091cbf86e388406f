"""Batched decoding with the live model: many images and questions at once, the same tokens as one at a time.

Rows are padded on the left and carry their own positions; requests of similar length share a batch; each distinct
(image, view) of a batch is encoded once; rows that have ended are taken out of the batch together with their keys and
values, so that the last long answer does not drag the others along.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from parallax.models.backbone import ImageInputs, base_model, positions, text_config
from parallax.models.batch import EncodedPrompt
from parallax.models.decoding import TokenPicker
from parallax.models.encoder import Encoder, PromptTooLong
from parallax.models.kv_cache import keep_rows, new_cache
from parallax.models.requests import Generation, GenerationCounts, GenerationRequest
from parallax.records import BadImage

VERSION = 1  # of this decoding; a change that may change tokens raises it, and cached candidates are made again
KEEP_SHARE = 0.75  # rows are compacted when no more than this share of them is still going

SetAside = Callable[[GenerationRequest, str], None]


@torch.no_grad()
def generate(
    model: Any,
    encoder: Encoder,
    requests: Sequence[GenerationRequest],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    set_aside: SetAside | None = None,
) -> tuple[list[Generation | None], GenerationCounts]:
    """Answers in the order of the requests, and what it took.

    A request whose image cannot be read or whose prompt does not fit raises, unless `set_aside` is given: then it is
    told the request and the reason, and the answer is None. `progress` is told how many more requests are done.
    """
    if batch_size < 1:
        raise ValueError(f"generation.batch_size={batch_size} must be at least 1")
    began = time.perf_counter()
    counts = GenerationCounts(rows=len(requests))
    results: list[Generation | None] = [None] * len(requests)
    order = sorted(
        range(len(requests)), key=lambda i: (requests[i].decoding.max_new_tokens, len(requests[i].prompt), i)
    )
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        encoded = _encode(encoder, [requests[i] for i in indices], set_aside)
        usable = [(i, item) for i, item in zip(indices, encoded, strict=True) if item is not None]
        if usable:
            batch = [requests[i] for i, _ in usable]
            answers = _Decoder(model, encoder, batch, [item for _, item in usable], counts).run()
            for (index, _), ids in zip(usable, answers, strict=True):
                finished = bool(ids) and ids[-1] in encoder.end_token_ids
                results[index] = Generation(tuple(ids), encoder.decode(ids), finished)
        if progress is not None:
            progress(len(indices))
    counts.seconds = time.perf_counter() - began
    return results, counts


def _encode(
    encoder: Encoder, requests: Sequence[GenerationRequest], set_aside: SetAside | None
) -> list[EncodedPrompt | None]:
    encoded: list[EncodedPrompt | None] = []
    for request in requests:
        try:
            item = encoder.encode_prompt(request.image.load(), request.prompt, request.view)
            room = encoder.max_context - len(item.input_ids)
            if request.decoding.max_new_tokens > room:
                raise PromptTooLong(
                    f"{request.decoding.max_new_tokens} new tokens after a prompt of {len(item.input_ids)} do not fit the "
                    f"context of {encoder.max_context}; lower generation.max_new_tokens or shorten the prompt"
                )
            encoded.append(item)
        except (BadImage, PromptTooLong) as error:
            if set_aside is None:
                raise
            set_aside(request, str(error))
            encoded.append(None)
    return encoded


def _look(request: GenerationRequest) -> str:
    """Two requests with the same look show the model the same pixels."""
    view = request.view
    return json.dumps([request.image.digest(), view.name, dict(view.params), view.seed], sort_keys=True, default=str)


class _Decoder:
    """One batch, from prompts to token ids."""

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        requests: Sequence[GenerationRequest],
        prompts: Sequence[EncodedPrompt],
        counts: GenerationCounts,
    ) -> None:
        self.model = base_model(model)
        self.encoder = encoder
        self.prompts = prompts
        self.counts = counts
        self.device = next(self.model.parameters()).device
        self.dtype = self.model.get_input_embeddings().weight.dtype
        self.limits = torch.tensor([request.decoding.max_new_tokens for request in requests], device=self.device)
        self.picker = TokenPicker([request.decoding for request in requests], self.device)
        self.ends = torch.tensor(encoder.end_token_ids, device=self.device)
        looks = [_look(request) for request in requests]
        self.distinct = list(dict.fromkeys(looks))
        self.image_of = [self.distinct.index(look) for look in looks]
        first = {look: row for row, look in reversed(list(enumerate(looks)))}
        self.images = [_moved(prompts[first[look]].vision, self.device) for look in self.distinct]

    def run(self) -> list[list[int]]:
        """Token ids of every row, with the end token where one was reached."""
        logits, cache, mask, following = self._prefill()
        rows = torch.arange(len(self.prompts), device=self.device)  # original number of each row still going
        longest = int(self.limits.max())
        tokens = torch.full((len(self.prompts), longest), self.encoder.pad_token_id, device=self.device)
        lengths = torch.zeros(len(self.prompts), dtype=torch.long, device=self.device)
        going = torch.ones(len(self.prompts), dtype=torch.bool, device=self.device)  # of the rows in the batch
        near_ties = torch.zeros((), dtype=torch.long, device=self.device)
        for step in range(longest):
            picked, near = self.picker.pick(logits, rows, step, self.dtype)
            near_ties += (near & going).sum()
            tokens[rows, step] = torch.where(going, picked, tokens[rows, step])
            lengths[rows] += going
            going = going & ~torch.isin(picked, self.ends) & (step + 1 < self.limits[rows])
            alive = int(going.sum())  # the one device-to-host sync of a step
            if alive == 0:
                break
            if alive <= KEEP_SHARE * len(rows):
                chosen = going.nonzero()[:, 0]
                first = int(mask[chosen].int().argmax(dim=1).min())
                dropped = keep_rows(cache, chosen, first)
                rows, picked, following, mask = rows[chosen], picked[chosen], following[chosen], mask[chosen, dropped:]
                going = going[chosen]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._step(picked, mask, following, cache)
            following = following + 1
        self.counts.near_ties += int(near_ties)
        self.counts.tokens += int(lengths.sum())
        self.counts.images_encoded += len(self.distinct)
        return [ids[:length] for ids, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]

    def _prefill(self) -> tuple[Tensor, Any, Tensor, Tensor]:
        width = max(len(prompt.input_ids) for prompt in self.prompts)
        ids = _pad_left([prompt.input_ids for prompt in self.prompts], self.encoder.pad_token_id, width).to(self.device)
        mask = _pad_left([torch.ones(len(p.input_ids), dtype=torch.bool) for p in self.prompts], 0, width).to(
            self.device
        )
        names = {name for prompt in self.prompts for name in prompt.token_inputs}
        token_inputs = {
            name: _pad_left([prompt.token_inputs[name] for prompt in self.prompts], 0, width).to(self.device)
            for name in names
        }
        row_images = [self.images[index] for index in self.image_of]
        position_ids, following = positions(self.model, ids, mask, row_images, token_inputs)
        images = ImageInputs(self.model, self.images, self.dtype).selected(self.image_of)
        self.position_rank = position_ids.ndim
        cache = new_cache(text_config(self.model))
        output = self.model(
            input_ids=ids,
            attention_mask=None if bool(mask.all()) else mask.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **token_inputs,
            **images,
        )
        return output.logits[:, -1], cache, mask, following

    def _step(self, picked: Tensor, mask: Tensor, following: Tensor, cache: Any) -> Tensor:
        position_ids = following[:, None]
        if self.position_rank == 3:
            position_ids = position_ids[None].expand(3, -1, -1)
        output = self.model(
            input_ids=picked[:, None],
            attention_mask=None if bool(mask.all()) else mask.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def _pad_left(rows: Sequence[Tensor], value: int, width: int) -> Tensor:
    """Shape: (len(rows), width)."""
    result = rows[0].new_full((len(rows), width), value)
    for index, row in enumerate(rows):
        result[index, width - len(row) :] = row
    return result


def _moved(vision: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in vision.items()}
