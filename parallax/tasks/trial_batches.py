"""The longest rows of a stage as a micro-batch: what a forecast and a trial step are made for.

Where the datamodule has counted tokens, its counts rank the pairs. Otherwise their answers and their prompt's characters do,
and only the first of that ranking are encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from datamodules.encoded_steps import PairBatches
from parallax.models.batch import PairBatch
from parallax.records import PreferencePair, Sample

if TYPE_CHECKING:
    from datamodules.preference import PreferenceDataModule
    from datamodules.supervised import SupervisedDataModule
    from parallax.models.policy import Policy

LOOKED_AT = 8  # pairs that are encoded to learn how long rows are


def longest_first(datamodule: PreferenceDataModule | SupervisedDataModule) -> list[int]:
    """Places of the stage's pairs (or dialogues), the longest first, as far as text tells."""
    counted = datamodule.row_lengths()
    lengths = list(counted.widths) if counted is not None else [_length(item) for item in datamodule.pairs]
    return sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))


def trial_batch(datamodule: PreferenceDataModule | SupervisedDataModule, policy: Policy, size: int) -> PairBatch:
    """The `size` longest pairs as one micro-batch, with zeros for reference log-probs; pairs repeat where there are fewer."""
    from datamodules.supervised import DialogueBatches, SupervisedDataModule  # Lightning: not before the first answers

    order = longest_first(datamodule)
    places = [order[number % len(order)] for number in range(size)]
    if isinstance(datamodule, SupervisedDataModule):
        return DialogueBatches(datamodule.samples, policy.encoder)(places)
    batch = PairBatches(datamodule.pairs, datamodule.pair_ids, policy.encoder, further=datamodule.further)(places)
    columns = batch.scoring.responses_per_prompt + sum(look.responses_per_prompt for look in batch.looks)
    batch.reference_log_probs = torch.zeros((size, columns))
    return batch


def _length(item: PreferencePair | Sample) -> int:
    if isinstance(item, PreferencePair):
        answers = [len(r.token_ids) if r.token_ids is not None else len(r.text) // 3 for r in item.responses]
        return max(answers) + len(item.prompt) // 3
    return sum(len(turn.question) + len(turn.answer or "") for turn in item.turns) // 3
