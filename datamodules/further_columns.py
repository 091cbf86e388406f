"""What an objective asks of the data beside a pair's answers under its own image: looks, and weights of tokens.

Everything here belongs to a pair and not to a batch or a process: `name_of` names a column by its content, so that the
reference scores it once, for all runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.preference.looks import Look, groups_of, partners
from parallax.preference.token_weights import TokenWeights
from parallax.records import Conversation, PreferencePair, Response, ViewSpec, fingerprint


@dataclass(frozen=True)
class Shown:
    """What a look shows, and the answers that are scored beside it. `weighted_as` are places among the pair's responses."""

    conversation: Conversation
    view: ViewSpec
    responses: tuple[Response, ...]
    weighted_as: tuple[int | None, ...]


@dataclass(frozen=True)
class FurtherColumns:
    """The looks and token weights of one set of pairs.

    Attributes:
        looks: of the objective.
        token_weights: of the objective.
        seed: of the run; views are drawn from it and the sample's id.
        partners: for each pair the place of its partner (see `looks.partners`); empty where no look needs one.
    """

    looks: tuple[Look, ...] = ()
    token_weights: TokenWeights | None = None
    seed: int = 0
    partners: Sequence[int | None] = field(default_factory=tuple)

    @property
    def groups(self) -> list[tuple[Look, ...]]:
        """Looks that share a picture, in the order of their columns."""
        return groups_of(self.looks)

    @property
    def need_partner(self) -> bool:
        return any("partner" in (look.response, look.image) for look in self.looks)

    @property
    def same_question(self) -> bool:
        """Whether a pair's partner has to ask the same."""
        return self.need_partner and any(look.same_question for look in self.looks)

    @property
    def looks_at_images(self) -> bool:
        """Whether pairs whose images alone differ can be learned from: a look at a view shows their rejected images."""
        return any(look.image == "view" for look in self.looks)

    def with_partners_of(self, pairs: Sequence[PreferencePair], ids: Sequence[str]) -> FurtherColumns:
        """The same for these pairs."""
        if not self.need_partner:
            return self
        found = partners(pairs, ids, self.seed, same_question=self.same_question)
        return FurtherColumns(self.looks, self.token_weights, self.seed, found)

    def shown(self, pairs: Sequence[PreferencePair], place: int, group: tuple[Look, ...]) -> Shown:
        """What a group of looks shows for the pair at `place`. Raises ValueError for a pair without a partner."""
        pair = pairs[place]
        other: PreferencePair | None = None
        if any("partner" in (look.response, look.image) for look in group):
            there = self.partners[place]
            if there is None:
                raise ValueError(f"the pair of sample {pair.sample_id!r} has no partner with another image; drop it")
            other = pairs[there]
        asked, view = pair.conversation, group[0].spec(self.seed, pair.sample_id)
        if group[0].image == "partner" and other is not None:
            asked = asked.with_images([other.images[place % len(other.images)] for place in range(len(asked.images))])
        elif group[0].image == "view" and pair.rejected_images:  # the data's own, in place of a view
            asked, view = asked.with_images(pair.rejected_images), ViewSpec()
        responses: list[Response] = []
        for look in group:
            if look.response == "partner":
                assert other is not None
                responses.append(other.chosen)
            else:
                responses.append(pair.chosen if look.response == "chosen" else pair.rejected[0])
        own: dict[str, int | None] = {"chosen": 0, "rejected": 1, "partner": None}
        return Shown(
            asked,
            view,
            tuple(responses),
            tuple(own[look.response] for look in group),
        )

    def weights(self, encoder: PromptEncoder, pair: PreferencePair) -> list[list[float]] | None:
        """A weight for each token of the pair's own responses, or None where all count the same."""
        if self.token_weights is None:
            return None
        return self.token_weights.weights([encoder.encode_response(response).tolist() for response in pair.responses])

    def name_of(
        self, pairs: Sequence[PreferencePair], ids: Sequence[str], place: int, group: tuple[Look, ...] | None
    ) -> str:
        """Names the reference log-probs of the pair's own responses (`group` None), or of a group of looks, by content."""
        weights = None if self.token_weights is None else self.token_weights.settings()
        if group is None:
            return ids[place] if weights is None else fingerprint([ids[place], weights])
        shown = self.shown(pairs, place, group)
        return fingerprint([ids[place], "look", _content(shown), weights])


def _content(shown: Shown) -> list[Any]:
    view = shown.view
    return [
        shown.conversation.image_digest(),
        [view.name, dict(view.params), view.seed],
        [list(r.token_ids) if r.token_ids is not None else r.text for r in shown.responses],
    ]
