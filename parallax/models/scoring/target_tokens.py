"""Tokens a network prefers to the given ones: how some published code scores rejected responses.

The trainers of POVID's line (STIC, arXiv 2405.19716, and SIMA, arXiv 2405.15973, as released) do not score the rejected text
itself. At each of its positions they take the network's own best token, the text up to there given, and where that is the
text's token the second best. Their papers describe plain DPO, which is `label` here and the default.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Pick = Literal["label", "argmax", "argmax_not_label"]
PICKS: tuple[str, ...] = get_args(Pick)


def own_choice(logits: Tensor, labels: Tensor, pick: Pick) -> Tensor:
    """Which token is scored at each position. Shapes: logits (M, V), labels (M,) -> (M,).

    `label` is the given token, `argmax` the most likely one, `argmax_not_label` the most likely one that is not given.
    Raises ValueError for any other word.
    """
    if pick not in PICKS:
        raise ValueError(f"rejected_scorer={pick!r} is not known: use one of {', '.join(PICKS)}")
    if pick == "label":
        return labels
    best, second = logits.detach().topk(2, dim=-1).indices.unbind(-1)
    return best if pick == "argmax" else torch.where(best == labels, second, best)
