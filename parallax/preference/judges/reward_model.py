"""A learned reward for sentences (ViGoR, arXiv 2402.06118): the base model with an adapter tuned on marked sentences says
how likely each sentence of an answer is right.

The adapter stands in the policy's place while it judges; there is no second copy of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.models.ingredients import files_digest
from parallax.preference.judge import Judgement
from parallax.preference.judges.claims import Claims
from parallax.preference.proposer import Generate
from parallax.records import Candidate, Sample
from parallax.settings.ranges import Count, ExistingPath, PromptFile

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class RewardModel(Claims):
    """The mean over an answer's sentences of p(yes), 0 to 1.

    Args:
        adapter: folder of the tuned adapter, of the policy's rank.
        prompt: how sentences are found and asked about, as for `Claims`: the words that the adapter was tuned on.
        batch_size, cache_dir: as for `Claims`.
    """

    name = "reward_model"

    def __init__(
        self,
        adapter: ExistingPath,
        prompt: PromptFile,
        *,
        batch_size: Count,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(prompt, by="probability", score="mean_probability", max_new_tokens=1, batch_size=batch_size,
                         cache_dir=cache_dir)  # fmt: skip
        self.adapter = Path(adapter).expanduser()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "adapter": files_digest(sorted(self.adapter.glob("adapter_model*.safetensors")))}

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> list[Judgement]:
        """Scores, with each sentence and its probability beside the answer."""
        with policy.wearing(self.adapter):
            return super().judge(policy, samples, candidates, seed=seed, generate=generate)
