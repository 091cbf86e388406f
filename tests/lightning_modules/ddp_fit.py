"""A short fit, run by `test_two_processes.py` in one process or in two: `ddp_fit.py <checkpoint> <folder> <processes>`."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from augment.occlusion import Black
from lightning_modules.callbacks import StepCheckpoints
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import BCO, ImageTerm, MultiNegative, Weighted
from lightning_modules.step_stream import StepStream
from lightning_modules.trainer import make_trainer
from parallax.models.batch import StepBatch
from parallax.records import ViewSpec
from tests import typed
from tests.lightning_modules.tiny_steps import OPTIM, look_batch, metrics_of_every_step, pair_batch, trained_state
from tests.parts import part
from tests.typed import load_policy


def main(checkpoint: str, folder: Path, processes: int) -> None:
    policy = load_policy({"path": checkpoint, "dtype": "float64"}, {"r": 4, "enabled": True}, seed=0)
    keep = metrics_of_every_step()
    keeper = StepCheckpoints(folder / "checkpoints", every_n_steps=1, keep=1)
    settings = {"accelerator": "cpu", "devices": processes, "precision": "64-true"}
    settings["strategy"] = "ddp" if processes > 1 else "auto"
    trainer = make_trainer(typed.trainer(**settings), folder=folder, callbacks=[keep, keeper], max_steps=3)

    def epoch_loader(epoch: int, first: int) -> list[StepBatch]:
        steps = []
        for start in (0, 2, 4):  # five pairs: with two processes one has three and the other two
            places: Any = list(range(start, start + 5))[trainer.global_rank :: processes]
            looks = {place: [look_batch(policy, [place], ViewSpec("black"))] for place in places}
            steps.append(StepBatch([replace(pair_batch(policy, [p], 2), looks=looks[p]) for p in places], 5))
        return steps

    # several rejected answers, one beside another image, and a mean that runs over the steps of all processes
    objective = Weighted([(1.0, MultiNegative(0.1)), (0.5, part(ImageTerm, Black())), (0.5, part(BCO))])
    module = DPOModule(policy, objective, OPTIM, reference_mode="live", total_steps=3)
    trainer.fit(module, train_dataloaders=StepStream(epoch_loader, 3, start=0, stop=3))
    if trainer.global_rank == 0:
        (folder / "metrics.json").write_text(json.dumps(keep.metrics))
        (folder / "kept.json").write_text(json.dumps(objective.state()))
        torch.save(trained_state(policy), folder / "trained.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
