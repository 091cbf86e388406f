"""Lightning's advice that does not apply here, kept from the user's screen. Real warnings still come through."""

from __future__ import annotations

import logging
import warnings

HARMLESS = (
    r".*does not have many workers.*",  # loaders here decide their own number of workers
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # meant so
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",  # the loader is told its first step
    r".*GPU available but not used.*",
    r".*Starting from v1\.9\.0, `tensorboardX` has been removed.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*Consider setting `persistent_workers=True`.*",
    r".*no `val_dataloader`.*|.*no `validation_step`.*|.*You defined a `validation_step`.*",
    r".*is an instance of `nn\.Module` and is already saved during checkpointing.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*Trying to infer the `batch_size` from an ambiguous collection.*",
    r".*`training_step` returned `None`.*",
    r".*`is_gradient_checkpointing` is deprecated.*",  # asked by peft of transformers
    r".*Couldn't infer the batch indices fetched from your dataloader.*",  # lists of requests have none
    r".*Paged optimizers are not supported on CPU.*",
)


def quiet_lightning() -> None:
    """Hide banners and tips. Safe to call often."""
    for pattern in HARMLESS:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
