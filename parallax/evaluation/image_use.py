"""Does the policy still look? The same answers scored beside the image and beside a corrupted view of it.

For every sample the base model answers twice, as it does for SeVa's pairs: about the clean image (chosen) and about the view
(rejected). The policy then scores these held-out answers and generates nothing itself:

- image_use_nats: mean of log π(chosen | image) − log π(chosen | view). Measured before and after training on the same answers,
  its change is the mean of ρ(chosen | image) − ρ(chosen | view), ρ the policy's log-ratio to the base.
- chosen_nats, rejected_nats: log-prob per token beside the clean image. Before training it says how far off-policy each side is;
  its change is the likelihood displacement on answers that were not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from augment.view import View
from parallax.evaluation.suites import Scores, Suite
from parallax.records import Response, Sample, ViewSpec
from parallax.settings.ranges import AnyText, Count

if TYPE_CHECKING:
    from parallax.models.policy import Policy

BATCH = 16  # samples in one forward pass


class ImageUse(Suite):
    """Scores given answers in place of asking the policy.

    Args:
        samples: with images and questions; answers are not needed.
        view: how the image is corrupted; each sample's view is drawn from a seed of its own.
        name, max_new_tokens, prefix: as of any suite; the token limit is that of the base model's answers.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        view: View,
        name: str,
        max_new_tokens: Count,
        prefix: AnyText = "",
    ) -> None:
        super().__init__(samples, name, max_new_tokens, prefix)
        self.view = view

    @property
    def seen(self) -> ViewSpec:
        """The view without a sample's seed."""
        return ViewSpec(self.view.name, self.view.params(), 0)

    def score(self, sample: Sample, answer: str) -> Scores:
        """An answer says nothing here; see `measure`."""
        return {}

    def measure(
        self,
        policy: Policy,
        answers: Sequence[tuple[Sample, ViewSpec, str, str]],
        progress: Callable[[int], None] | None = None,
    ) -> list[Scores]:
        """What each (sample, view, chosen answer, rejected answer) adds to the metrics. Nothing has a gradient."""
        import torch

        found: list[Scores] = []
        with torch.inference_mode(), policy.gathered():
            for start in range(0, len(answers), BATCH):
                rows = answers[start : start + BATCH]
                clean, corrupted = [], []
                for sample, view, chosen, rejected in rows:
                    image = sample.image.load()
                    ids = [policy.encoder.encode_response(Response(text)) for text in (chosen, rejected)]
                    clean.append((policy.encoder.encode_prompt(image, sample.question), ids))
                    corrupted.append((policy.encoder.encode_prompt(image, sample.question, view), ids[:1]))
                here, there = (
                    policy.score(policy.encoder.collate(items).to(policy.device)) for items in (clean, corrupted)
                )
                found += [
                    {
                        f"{self.prefix}image_use_nats": (float(own[0] - other[0]), 1.0),
                        f"{self.prefix}chosen_nats": (float(own[0]), float(tokens[0])),
                        f"{self.prefix}rejected_nats": (float(own[1]), float(tokens[1])),
                    }
                    for own, other, tokens in zip(here.total, there.total, here.counts, strict=True)
                ]
                if progress is not None:
                    progress(len(rows))
        return found
