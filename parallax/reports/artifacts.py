"""W&B artifacts of an online run, with lineage: policy → pairs → adapter → results. Offline runs keep all of it in their folder.

A W&B run knows what it used and what it made. So the policy a stage starts from is noted as used, the pair set as made and then
as used, the adapter as made; the same pair set in another run of a sweep is the same artifact, because its name is its content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

    from parallax.reports.staged_logger import StagedLogger

    New = Callable[..., wandb.Artifact]
    Act = Callable[[wandb.Run, New], object]


def note_policy(
    loggers: Sequence[StagedLogger], name: str, fingerprint: str, *, base: str, adapter: str | None
) -> None:
    """The policy a stage starts from: who it is, without its weights."""
    metadata = {"model": name, "base": base, "adapter": adapter, "fingerprint": fingerprint}
    _each(
        loggers,
        "note its policy",
        lambda run, new: run.use_artifact(new(f"policy-{fingerprint[:16]}", "policy", metadata)),
    )


def note_pairs(loggers: Sequence[StagedLogger], folder: Path, report: Mapping[str, Any]) -> None:
    """The pair set of a stage, with what its build counted."""
    metadata = {key: value for key, value in report.items() if key != "pair_set"}

    def act(run: wandb.Run, new: New) -> None:
        made = new(f"pairs-{str(report['key'])[:16]}", "pairs", metadata, folder)
        run.log_artifact(made)
        run.use_artifact(made)

    _each(loggers, "upload the pairs", act)


def note_adapter(loggers: Sequence[StagedLogger], folder: Path, fingerprint: str, *, stage: str, upload: bool) -> None:
    """The adapter a stage has made; its weights only with `upload`."""
    metadata = {"stage": stage, "fingerprint": fingerprint, "weights": upload}
    files = folder if upload else folder / "adapter_config.json"
    _each(loggers, "upload the adapter",
          lambda run, new: run.log_artifact(new(f"adapter-{fingerprint[:16]}", "model", metadata, files)))  # fmt: skip


def note_results(loggers: Sequence[StagedLogger], folder: Path) -> None:
    """What is left to read of a run: results, report, configuration."""
    files = [folder / name for name in ("results.json", "report.html", "config.yaml", "manifest.json")]

    def act(run: wandb.Run, new: New) -> None:
        made = new(f"results-{run.id}", "results", {}, *[file for file in files if file.is_file()])
        run.log_artifact(made)

    _each(loggers, "upload its results", act)


def _each(loggers: Sequence[StagedLogger], what: str, act: Act) -> None:
    for logger in loggers:
        run = logger.run
        if run is not None and not run.offline:
            logger.try_to(what, partial(act, run, _new))


def _new(name: str, kind: str, metadata: Mapping[str, Any], *files: Path) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
    for path in files:
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
    return artifact
