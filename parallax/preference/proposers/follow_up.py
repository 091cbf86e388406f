"""Proposers that ask again with an answer in hand: to go on with it, to rewrite it, to improve it, to sum several up.

The first answers are asked for all at once, then all second ones; both are found in the store the next time. Texts of prompts
are arguments, with their words in `conf/prompts/`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from augment.registry import spec_of
from augment.view import View, generator_for
from parallax.models.generation.requests import GenerationRequest
from parallax.preference.prompts import PromptPool
from parallax.preference.proposer import Ask, Generate, Proposer
from parallax.records import Candidate, Decoding, Sample, ViewSpec, seed_for

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class FollowUp(Proposer):
    """A first ask about each sample, then further asks that know what it brought.

    `requests` are the first asks; `follow_ups` names what is asked then; `candidates` says which of all answers count.
    """

    def settings(self) -> dict[str, Any]:
        """All arguments, as plain data. They are part of a pair set's name."""
        return {"proposer": type(self).__name__, **{name: _plain(value) for name, value in vars(self).items()}}

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """What is asked first: the sample's question, greedily. A pure function of its arguments."""
        return [Ask("chosen", 0, GenerationRequest.about(sample, ViewSpec(), self.greedy))]

    @property
    def greedy(self) -> Decoding:
        """How first answers are decoded."""
        return Decoding(self.max_new_tokens)

    max_new_tokens: int

    @abstractmethod
    def follow_ups(self, sample: Sample, first: Sequence[Candidate], seed: int) -> list[Ask]:
        """What is asked then. A pure function of its arguments."""

    def candidates(
        self, policy: Policy, sample: Sample, first: Sequence[Candidate], then: Sequence[Candidate]
    ) -> list[Candidate]:
        """The candidates, chosen first: all answers unless said otherwise."""
        return [*first, *then]

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        firsts = _asked([self.requests(sample, seed) for sample in samples], generate)
        both = list(zip(samples, firsts, strict=True))
        thens = _asked([self.follow_ups(sample, first, seed) for sample, first in both], generate)
        return [self.candidates(policy, sample, first, then) for (sample, first), then in zip(both, thens, strict=True)]


def _asked(asks: Sequence[Sequence[Ask]], generate: Generate) -> list[list[Candidate]]:
    answers = iter(generate([ask for group in asks for ask in group]))
    return [[next(answers) for _ in group] for group in asks]


def drawn(
    sample: Sample, seed: int, role: str, k: int, max_new_tokens: int, temperature: float, top_p: float
) -> Decoding:
    """Sampled with a seed of its own for each sample, role and number; greedy at temperature 0."""
    if temperature == 0:
        return Decoding(max_new_tokens)
    return Decoding(max_new_tokens, temperature, top_p, seed_for(seed, sample.id, f"decode/{role}", k))


def seen(view: View, sample: Sample, seed: int, k: int, purpose: str = "view") -> ViewSpec:
    """The k-th view of a sample's image, drawn as `ByView` draws it; another purpose has seeds of its own."""
    one = view.draw(
        generator_for(seed_for(seed, sample.id, f"{purpose} mixture" if purpose != "view" else "mixture", k)), k
    )
    return spec_of(one, seed_for(seed, sample.id, purpose, k))


def template(text: str, key: str, *names: str) -> str:
    """`text` if it has a place for each of `names`. Raises ValueError naming the key otherwise."""
    if lacking := ", ".join(f"{{{name}}}" for name in names if f"{{{name}}}" not in text):
        raise ValueError(f"{key}={text!r} lacks {lacking}: the prompt has to show it")
    return text


def _plain(value: object) -> Any:
    if isinstance(value, View):
        return {"name": value.name, "params": value.params()}
    if isinstance(value, Proposer):
        return value.settings()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, PromptPool)):
        return [_plain(item) for item in value]
    return value
