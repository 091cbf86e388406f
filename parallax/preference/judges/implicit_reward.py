"""The aligned model's own reward: how much likelier an answer has become, log π_θ/π_ref, which is what DPO taught it (arXiv
2305.18290, equation 5); per token as RLAIF-V's self-feedback takes it (arXiv 2405.17220)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from parallax.models import processes
from parallax.preference.judge import UNSCORED, Judge
from parallax.preference.proposer import Generate, Unanswerable
from parallax.records import BadImage, Candidate, Response, Sample
from parallax.settings.ranges import Count

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class ImplicitReward(Judge):
    """log π_θ(y) - log π_ref(y), divided by the number of tokens with `norm="per_token"`.

    It tells answers apart only once the policy has learned something: before that all scores are 0.

    Args:
        norm: `per_token` or `sum`.
        batch_size: answers scored at once.
    """

    scores_leaves: ClassVar[bool] = False  # of sentence trees

    name = "implicit_reward"

    def __init__(self, norm: Literal["per_token", "sum"], batch_size: Count) -> None:
        self.norm, self.batch_size = norm, batch_size

    def settings(self) -> dict[str, Any]:
        return {"judge": self.name, "norm": self.norm}

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> list[list[float]]:
        """Scores; empty answers have none. With several processes each scores its share."""
        rows = [(s, c) for s, group in zip(samples, candidates, strict=True) for c in group]
        rank, world = processes.rank(), processes.world_size()
        why: dict[str, str] = {}
        mine = self._scores(policy, rows[rank::world], why)
        gathered = processes.all_gather((mine, why))
        for _, unfit in gathered:
            why |= unfit
        if why:
            raise Unanswerable(why)
        values = iter(gathered[place % world][0][place // world] for place in range(len(rows)))
        return [[next(values) for _ in group] for group in candidates]

    def _scores(self, policy: Policy, rows: Sequence[tuple[Sample, Candidate]], why: dict[str, str]) -> list[float]:
        scores = [UNSCORED] * len(rows)
        encoder = policy.encoder
        told = [place for place, (_, candidate) in enumerate(rows) if candidate.text.strip()]
        with policy.gathered(), torch.inference_mode():
            for start in range(0, len(told), self.batch_size):
                places, items = [], []
                for place in told[start : start + self.batch_size]:
                    sample, candidate = rows[place]
                    try:
                        prompt = encoder.encode_conversation(sample.conversation())
                        answer = encoder.encode_response(Response(candidate.text, candidate.token_ids or None))
                    except (BadImage, ValueError) as error:
                        why[sample.id] = str(error)
                        continue
                    places.append(place)
                    items.append((prompt, [answer]))
                if not items:
                    continue
                batch = encoder.collate(items).to(policy.device)
                own = policy.score(batch)
                with policy.reference():
                    gained = (own.total - policy.score(batch).total).double()[:, 0]
                if self.norm == "per_token":
                    gained = gained / own.counts[:, 0]
                for place, value in zip(places, gained.tolist(), strict=True):
                    scores[place] = value
        return scores
