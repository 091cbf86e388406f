"""The data's own answer against the policy's: what self-improvement is compared with.

- GT-DPO, the baseline of SIMA (arXiv 2405.15973, section 5): ground truth chosen, the model's greedy answer rejected.
- SPIN (arXiv 2401.01335, section 4): in rounds, ground truth chosen, a sample of the previous round's policy rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from parallax.models.generation.requests import GenerationRequest
from parallax.preference.proposer import Ask, Generate, Proposer
from parallax.records import Candidate, Decoding, GenerationSpec, Sample, ViewSpec, seed_for
from parallax.settings.ranges import Count, Negatives, PositiveShare, Temperature

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class Given(Proposer):
    """Stands where a proposer would, for sources that bring their own pairs."""

    takes_pairs: ClassVar[bool] = True  # the source's own
    chosen_is_given: ClassVar[bool] = True

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Never called for sources with pairs; for others it says what to choose instead."""
        raise ValueError(
            "this source has no ready-made pairs; use data=preference_file with method=dpo_file, or a method that makes pairs, "
            "such as method=seva"
        )


def written_answer(policy: Policy, sample: Sample, role: str, text: str, author: str, index: int = 0) -> Candidate:
    """`text` as a candidate, tokenised once as the policy's template writes an answer, end token included.

    Args:
        author: where the text comes from ("ground truth", "edited"), kept in the pair's provenance in place of a policy.
    """
    asked = sample.conversation()
    ids = tuple(policy.encoder.chat.encode_response(text))
    spec = GenerationSpec(
        policy=author, precision="", processor=policy.encoder.processor_fingerprint,
        template=policy.encoder.chat.fingerprint(), image=asked.image_digest(), prompt=asked.written(), view=ViewSpec(),
        decoding=Decoding(len(ids)), generator=f"written: {text}",
    )  # fmt: skip
    return Candidate(spec.key(), sample.id, role, index, ids, text.strip(), True, spec)


class GroundTruth(Proposer):
    """Ground truth against the policy's own answers to the same question on the same image.

    Args:
        num_negatives: K, at least 1. More than one needs a temperature above 0: greedy answers are all the same.
        max_new_tokens: token limit of the policy's answers.
        temperature: 0 is greedy.
        top_p: share of probability kept when sampling.
    """

    chosen_is_given: ClassVar[bool] = True  # chosen answers are the data's own

    def __init__(
        self,
        num_negatives: Negatives,
        *,
        max_new_tokens: Count,
        temperature: Temperature = 0.0,
        top_p: PositiveShare = 1.0,
    ) -> None:
        if num_negatives > 1 and temperature == 0:
            raise ValueError(
                f"num_negatives is {num_negatives} and temperature 0, where all answers are the same; use a temperature above 0"
            )
        self.num_negatives = num_negatives
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p

    def settings(self) -> dict[str, Any]:
        """Everything that decides the requests but the seed, as plain data."""
        return {
            "proposer": type(self).__name__,
            "num_negatives": self.num_negatives,
            "decoding": {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p},
        }

    def unfit(self, sample: Sample) -> tuple[str, str] | None:
        """Why there can be no pair: (reason, sentence), or None."""
        return no_answer(sample)

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """The policy's own answers; the ground truth is asked of nobody."""
        return [Ask("rejected", k, self._request(sample, seed, k)) for k in range(self.num_negatives)]

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Candidates per sample: ground truth, then the policy's answers."""
        asks = [self.requests(sample, seed) for sample in samples]
        own = iter(generate([ask for group in asks for ask in group]))
        return [
            [written_answer(policy, sample, "chosen", sample.answer or "", "ground truth"), *(next(own) for _ in group)]
            for sample, group in zip(samples, asks, strict=True)
        ]

    def _request(self, sample: Sample, seed: int, k: int) -> GenerationRequest:
        decoding = Decoding(self.max_new_tokens)
        if self.temperature > 0:
            own = seed_for(seed, sample.id, "decode/rejected", k)
            decoding = Decoding(self.max_new_tokens, self.temperature, self.top_p, own)
        return GenerationRequest.about(sample, ViewSpec(), decoding)


def no_answer(sample: Sample) -> tuple[str, str] | None:
    """The reason and sentence for a sample without a ground-truth answer, or None."""
    if sample.answer is not None and sample.answer.strip():
        return None
    return "no_answer", f"sample {sample.id!r} has no ground-truth answer, and this method prefers it to others"
