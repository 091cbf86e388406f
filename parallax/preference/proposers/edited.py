"""POVID's first stage (arXiv 2402.11411, section 3.1): ground truth against the same text with hallucinations put in.

The paper has an outside model rewrite the text. Here the rewrite is a function: on data whose objects are known it edits them
(the built-in world: `datamodules.shapes.hallucinate`), and `TextsFromFile` takes texts that somebody else has rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from parallax.preference.proposer import Generate, Proposer
from parallax.preference.proposers.ground_truth import no_answer, written_answer
from parallax.records import BadImage, Candidate, Sample, seed_for
from parallax.settings.ranges import ExistingPath

if TYPE_CHECKING:
    from parallax.models.policy import Policy

Rewrite = Callable[
    [Sample, int], str | None
]  # (sample, seed of its own) -> the answer with hallucinations, None: cannot


class GroundTruthAgainstEdited(Proposer):
    """Ground truth chosen, its rewrite rejected. Nothing is generated.

    Args:
        rewrite: puts hallucinations into a sample's answer.
    """

    chosen_is_given: ClassVar[bool] = True  # chosen answers are the data's own

    def __init__(self, rewrite: Rewrite) -> None:
        self.rewrite = rewrite

    def settings(self) -> dict[str, Any]:
        """What decides the texts but the seed, as plain data."""
        describe = getattr(self.rewrite, "settings", None)
        name = getattr(self.rewrite, "__name__", type(self.rewrite).__name__)
        return {"proposer": type(self).__name__, "rewrite": describe() if describe is not None else name}

    def unfit(self, sample: Sample) -> tuple[str, str] | None:
        """Why there can be no pair: (reason, sentence), or None."""
        if (missing := no_answer(sample)) is not None:
            return missing
        if self.rewrite(sample, 0) is None:
            return "no_rewrite", f"there is no text with hallucinations for sample {sample.id!r}"
        try:
            sample.conversation().image_digest()
        except BadImage as bad:
            return "bad_image", str(bad)
        return None

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Candidates per sample, chosen first."""
        return [
            [
                written_answer(policy, sample, "chosen", sample.answer or "", "ground truth"),
                written_answer(policy, sample, "rejected", self._text(sample, seed), "edited"),
            ]
            for sample in samples
        ]

    def _text(self, sample: Sample, seed: int) -> str:
        text = self.rewrite(sample, seed_for(seed, sample.id, "rewrite"))
        assert text is not None, "samples without a rewrite are unfit"
        return text


class TextsFromFile:
    """Rewritten answers from a user's JSON file, `{sample id: text}`. Samples that are not in it give no pair.

    Raises FileNotFoundError when there is no such file, and ValueError when it is something else.
    """

    def __init__(self, path: ExistingPath) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"the file of rewritten answers {self.path} does not exist; give a JSON file that maps sample ids to texts"
            )
        texts = json.loads(self.path.read_text(encoding="utf-8"))
        if not isinstance(texts, dict) or not all(isinstance(text, str) and text.strip() for text in texts.values()):
            raise ValueError(f"{self.path} must hold one JSON object whose values are texts that are not empty")
        self.texts: dict[str, str] = texts

    def __call__(self, sample: Sample, seed: int) -> str | None:
        return self.texts.get(sample.id)

    def settings(self) -> dict[str, Any]:
        return {"rewrite": "TextsFromFile", "path": str(self.path)}
