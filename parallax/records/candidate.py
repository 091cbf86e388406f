"""Candidates: what a proposer brought back, and everything that determines it.

A candidate is found again by content. `GenerationSpec.key()` hashes all that decides which tokens come out (policy,
precision, processor, template, image bytes, prompt, view and its seed, decoding, generator); two runs that agree on
these share the candidate, whatever else differs between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from parallax.records.fingerprint import fingerprint


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """Which view of the image the model sees. `identity` has no parameters and no seed."""

    name: str = "identity"
    params: Mapping[str, Any] = field(default_factory=dict)  # plain data, e.g. {"noise_steps": 500}
    seed: int = 0  # seed of the view's own generator; 0 for deterministic views


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are picked. `temperature=0` is greedy, and then `top_p` and `seed` are without meaning and kept at 1 / 0."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """All ingredients of one generation. Change any and the key changes; leave all and the work is reused."""

    policy: str  # fingerprint of weights + adapter
    precision: str  # "float32", "bfloat16", …
    processor: str  # fingerprint of processor files + image-processor backend
    template: str  # fingerprint of the chat template
    image: str  # digest of the image content
    prompt: str  # the user's text as the model is asked, without the image placeholder
    view: ViewSpec
    decoding: Decoding
    generator: str = "transformers"  # backend name and the version of our decoding
    answer_start: str = ""  # how the answer was made to begin

    def key(self) -> str:
        """Content address: 32 hex digits."""
        return fingerprint(self.as_data())

    def as_data(self) -> dict[str, Any]:
        """As plain data; an answer that began freely says nothing about its start."""
        return {name: value for name, value in asdict(self).items() if name != "answer_start" or value}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One response. `token_ids` are the generated ids, with the end token last when `finished`."""

    key: str
    sample_id: str
    role: str  # what the proposer meant it for: "chosen", "rejected", "sample", …
    index: int  # 0-based among the candidates of that role
    token_ids: tuple[int, ...]
    text: str  # decoded without special tokens
    finished: bool  # False: cut by max_new_tokens
    spec: GenerationSpec
    scores: Mapping[str, float] = field(default_factory=dict)

    def as_role(self, role: str, index: int) -> Candidate:
        """The same answer, meant for something else."""
        return replace(self, role=role, index=index)
