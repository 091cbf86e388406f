"""What answers requests: the policy itself, or a server that has its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.generation.generate import Finished, SetAside
from parallax.models.generation.requests import Generation, GenerationCounts, GenerationRequest
from parallax.records import GenerationSpec


class Answerer(Protocol):
    """All that building pairs asks of a policy or of a server in its place."""

    encoder: PromptEncoder
    last_generation: GenerationCounts

    def spec(self, request: GenerationRequest) -> GenerationSpec:
        """Everything that determines the answer to `request`; its key finds a stored candidate again."""
        ...

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        batch_size: int = 128,
        progress: Callable[[int], None] | None = None,
        set_aside: SetAside | None = None,
        finished: Finished | None = None,
        num_workers: int | str | None = None,
    ) -> list[Generation | None]:
        """Answers in the order of the requests, see `Policy.generate`."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """Inside: every process may ask as much or as little as it likes. All enter and leave together."""
        ...
