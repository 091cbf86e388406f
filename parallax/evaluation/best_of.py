"""Best of N: several answers to each question, of which a judge picks one.

RLAIF-V (arXiv 2405.17220) does so with the aligned model's own reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Any

from parallax.preference.judge import Judge, as_judgement
from parallax.preference.proposer import Generate, Unanswerable
from parallax.records import Candidate, Decoding, Sample, seed_for

if TYPE_CHECKING:
    from parallax.models.generation.requests import GenerationRequest
    from parallax.models.policy import Policy

Answer = tuple[str, bool]  # text, finished


@dataclass(frozen=True)
class BestOf:
    """The usual answer and n - 1 sampled ones, and who picks among them.

    Args:
        n: answers of each question, 2 or more.
        judge: the best by its scores is taken; the usual answer where it has none to give, and where others are no better.
        temperature: of the samples.
    """

    n: int
    judge: Judge
    temperature: float = 0.7

    def sampled(self, request: GenerationRequest, number: int, seed: int) -> GenerationRequest:
        """The request of sample `number`, from 1."""
        own = seed_for(seed, request.sample_id, "best of", number)
        return replace(request, decoding=Decoding(request.decoding.max_new_tokens, self.temperature, 1.0, own))

    def pick(
        self,
        policy: Policy,
        asked: Sequence[tuple[Sample, GenerationRequest]],
        tries: Sequence[dict[str, Answer]],
        *,
        seed: int,
        generate: Generate,
    ) -> dict[str, Answer]:
        """The best answer of each sample. `tries` are answers by sample id, the usual ones first."""
        left = {sample.id: (sample, _candidates(policy, request, tries)) for sample, request in asked}
        chosen = {sample_id: tries[0][sample_id] for sample_id in left}
        while left:
            samples, groups = [sample for sample, _ in left.values()], [group for _, group in left.values()]
            try:
                judged = self.judge.judge(policy, samples, groups, seed=seed, generate=generate)
            except Unanswerable as error:
                left = {sample_id: item for sample_id, item in left.items() if sample_id not in error.why}
                continue
            for sample, group, own in zip(samples, groups, judged, strict=True):
                able = [(score, -place) for place, score in enumerate(as_judgement(own).scores) if not isnan(score)]
                if able:
                    best = group[-max(able)[1]]
                    chosen[sample.id] = best.text, best.finished
            break
        return chosen

    def settings(self) -> dict[str, Any]:
        return {"n": self.n, "temperature": self.temperature, "judge": self.judge.settings() or self.judge.name}


def _candidates(policy: Policy, request: GenerationRequest, tries: Sequence[dict[str, Answer]]) -> list[Candidate]:
    spec = policy.spec(request)
    return [
        Candidate(spec.key(), request.sample_id, "sample", number, (), *answers[request.sample_id], spec)
        for number, answers in enumerate(tries)
        if request.sample_id in answers
    ]
