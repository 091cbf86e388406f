"""How likely a model is to begin its answer with each of some words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from parallax.models import processes
from parallax.models.batch import EncodedPrompt
from parallax.models.generation.prefetch import refusal
from parallax.models.generation.requests import GenerationRequest
from parallax.records import BadImage, fingerprint
from parallax.records.shard_folder import KeyedStore

if TYPE_CHECKING:
    from parallax.models.policy import Policy

VERSION = 1  # raised when a change may change the numbers


def first_word_probabilities(
    policy: Policy,
    requests: Sequence[GenerationRequest],
    words: Sequence[str],
    *,
    why: dict[str, str],
    store: KeyedStore | None = None,
    batch_size: int = 128,
) -> list[list[float]]:
    """Probabilities of the first token of each word as the first token of the answer. Shape: (requests, words).

    With several processes each scores its share and all get the whole. What is found in `store` is not scored again.

    Args:
        words: told apart by their first tokens; of two that begin with the same token the later one counts 0.
        why: told of samples that cannot be asked about, and why; their rows are zeros.
    """
    firsts = [policy.encoder.chat.encode_response(word)[0] for word in words]
    asked: dict[str, GenerationRequest] = {}
    keys = []
    for request in requests:
        try:
            key = fingerprint([VERSION, policy.spec(request).key(), policy.scorer, firsts])
            asked[key] = request
        except BadImage as bad:
            key, why[request.sample_id] = "", str(bad)
        keys.append(key)
    if store is not None:
        store.refresh()
    rows: dict[str, list[float]] = processes.broadcast(dict(store.get_many(asked)) if store is not None else {})
    mine = [key for key in asked if key not in rows][processes.rank() :: processes.world_size()]
    made, faults = _scored(policy, {key: asked[key] for key in mine}, firsts, batch_size)
    if store is not None:
        store.add(made)
    for found, unfit in processes.all_gather((made, faults)):
        rows |= found
        why |= unfit
    return [rows.get(key, [0.0] * len(words)) for key in keys]


def _scored(
    policy: Policy, asked: Mapping[str, GenerationRequest], firsts: Sequence[int], batch_size: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Rows by key, and why some samples have none."""
    tokens = list(dict.fromkeys(firsts))
    answers = [torch.tensor([token]) for token in tokens]
    made: dict[str, list[float]] = {}
    why: dict[str, str] = {}
    keys = list(asked)
    with policy.gathered(), torch.inference_mode():
        for start in range(0, len(keys), batch_size):
            encoded: dict[str, tuple[EncodedPrompt, list[Tensor]]] = {}
            for key in keys[start : start + batch_size]:
                request = asked[key]
                try:
                    encoded[key] = policy.encoder.encode_conversation(request.conversation, request.view), answers
                except Exception as error:
                    if (reason := refusal(error)) is None:
                        raise
                    why[request.sample_id] = reason
            if encoded:
                batch = policy.encoder.collate(list(encoded.values())).to(policy.device)
                for key, row in zip(encoded, policy.score(batch).total.double().exp().tolist(), strict=True):
                    of = dict(zip(tokens, row, strict=True))
                    made[key] = [of.pop(token, 0.0) for token in firsts]
    return made, why
