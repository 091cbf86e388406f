"""Answers that nobody generated: ground truth, or a text somebody wrote, as candidates beside generated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallax.records import Candidate, Decoding, GenerationSpec, Sample, ViewSpec

if TYPE_CHECKING:
    from parallax.models.policy import Policy


def written_answer(policy: Policy, sample: Sample, role: str, text: str, author: str, index: int = 0) -> Candidate:
    """`text` as a candidate, tokenised once as the policy's template writes an answer, end token included.

    Args:
        author: where the text comes from ("ground truth", "edited"), kept in the pair's provenance in place of a policy.
    """
    asked = sample.conversation()
    ids = tuple(policy.encoder.chat.encode_response(text))
    spec = GenerationSpec(
        policy=author, precision="", processor=policy.encoder.processor_fingerprint(),
        template=policy.encoder.chat.fingerprint(), image=asked.image_digest(), prompt=asked.written(), view=ViewSpec(),
        decoding=Decoding(len(ids)), generator=f"written: {text}",
    )  # fmt: skip
    return Candidate(spec.key(), sample.id, role, index, ids, text.strip(), True, spec)
