"""Preference pairs: one prompt, one chosen response and K rejected ones, with where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parallax.records.fingerprint import fingerprint
from parallax.records.sample import ImageRef


@dataclass(frozen=True, slots=True)
class Response:
    """A response as it is trained on. `token_ids` include the end token unless generation was cut short.

    `token_ids` is None for responses that came as text (a preference file); the policy's tokenizer then makes them.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    provenance: Mapping[str, Any] = field(
        default_factory=dict
    )  # plain data: candidate key, view, decoding, prompt asked
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Chosen first, then K rejected. `prompt` is the user text trained on, without the image placeholder."""

    sample_id: str
    source: str
    image: ImageRef
    prompt: str
    chosen: Response
    rejected: tuple[Response, ...]
    kind: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rejected:
            raise ValueError(f"pair of sample {self.sample_id!r} has no rejected response; a pair needs at least one")

    @property
    def responses(self) -> tuple[Response, ...]:
        """Shape: (1 + K,), chosen first."""
        return (self.chosen, *self.rejected)

    @property
    def id(self) -> str:
        """Content address of the pair: image, prompt and all responses. Reference log-probs hang on it."""
        return fingerprint(
            {
                "image": self.image.digest(),
                "prompt": self.prompt,
                "responses": [list(r.token_ids) if r.token_ids is not None else r.text for r in self.responses],
            }
        )


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sample that gave no pair, and why. `reason` is one of a few short names that are counted and shown."""

    sample_id: str
    source: str
    reason: str
    detail: str = ""
