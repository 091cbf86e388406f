"""Training with whole weights in several processes, each with its share of a step's pairs."""

from __future__ import annotations

import torch
from pytorch_lightning.strategies import DDPStrategy


class SummedStrategy(DDPStrategy):
    """Lightning's `DDPStrategy` without torch's wrapper, whose buckets would hold every gradient a second time.

    Gradients are summed once per optimiser step by `parallax.models.sharding.whole`. As with the wrapper,
    processes begin with the first one's values of what is trained; everything else they have read from the same files.
    """

    def configure_ddp(self) -> None:
        assert self.model is not None
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    torch.distributed.broadcast(parameter, 0)
