"""The life of a run folder: found or made, locked, marked running, and in the end finished, interrupted or failed.

`resume=auto` goes on with the newest run of the same configuration, data, weights and code if it is unfinished, and says so if it
is finished. `never` starts afresh, `resume=<folder>` names the run.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from parallax.records.atomic import remove_leftovers
from parallax.records.interruption import Interrupted, listening
from parallax.records.plain_text import say
from parallax.records.run_lock import HOLDER, LOCK, FolderInUse, RunLock, in_use
from parallax.reports.run_log import is_shown
from parallax.settings.groups import Trainer
from parallax.settings.tasks import task_fact
from parallax.tasks.disk_room import check_writable
from parallax.tasks.error_messages import sentence_of
from parallax.tasks.naming import is_multirun
from parallax.tasks.recipe import code_digest, run_key
from parallax.tasks.run_state import FILE, RunState, now, runs_beside, state_of

log = logging.getLogger(__name__)

RESULTS = ("results.json", "pairs.json")  # what a finished run of these has to show
ADVICE = "choose another paths.output_dir, or remove the folder"
BOOKKEEPING = {".hydra", "config.yaml", "environment.json", "error.log", "run.log", FILE, LOCK, HOLDER}
AT_START = 120.0  # seconds within which a foreseen error leaves no folder behind
FOLDER = "PARALLAX_RUN_FOLDER"  # tells the other processes of a run where it is

_places: list[Path] = []  # of this process's runs since `took_place` was last asked


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a run takes place, and why."""

    folder: Path
    before: RunState | None = None  # of the run that is gone on with
    finished: bool = False  # there is nothing left to do
    said: str | None = None  # a sentence for the user


def in_run_folder(cfg: DictConfig, act: Callable[[DictConfig], Any], own: Path, *, named: bool = False) -> Any:
    """As `_held_run`; a task that made no files, and a start that failed, leave no folder behind."""
    began, place = time.monotonic(), len(_places)
    unused = not task_fact(str(cfg.task.name), "resumes")
    try:
        return _held_run(cfg, act, own, named)
    except BaseException as error:
        unused |= not is_multirun() and time.monotonic() - began < AT_START and sentence_of(error) is not None
        if unused:  # the sentence on the screen is all there is to know
            error.__notes__ = [note for note in getattr(error, "__notes__", ()) if "error.log" not in note]
        raise
    finally:
        if unused and not is_helper():
            for folder in {own, *_places[place:]}:
                discard_unused(folder)


def _held_run(cfg: DictConfig, act: Callable[[DictConfig], Any], own: Path, named: bool) -> Any:
    """Call `act(cfg)` in the run's folder, held and watched over; of a run that is finished, return the results instead.

    Args:
        own: the folder the run has by itself: Hydra's, or `paths.output_dir`.
        named: whether the user chose it; the run then takes place nowhere else.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    key, task = run_key(config), str(config["task"]["name"])
    if is_helper() and FOLDER in os.environ:  # started by the first process, which holds the folder
        return act(_placed(cfg, Path(os.environ[FOLDER])))
    resumes = task_fact(task, "resumes")
    tell = _telling(config) if resumes else _alone
    with ExitStack() as holding:
        found: Choice | Exception | None = None
        if not is_helper():
            try:
                found = choose(str(config["resume"]), key, task, own, named=named)
                if not found.finished:
                    if resumes:
                        check_writable(
                            {"paths.output_dir": found.folder, "paths.cache_dir": config["paths"]["cache_dir"]}
                        )
                    os.environ[FOLDER] = str(holding.enter_context(held(found, key, task)))
                    holding.callback(os.environ.pop, FOLDER, None)
            except Exception as error:
                tell(error)  # or the others would wait for ever
                raise
        choice = tell(found)
        if isinstance(choice, Exception):
            raise choice
        if choice is None:  # a further process of a task in which each has its own way
            return act(_placed(cfg, own))
        if choice.folder.resolve() != own.resolve():
            discard_empty(own)
        return _finished(choice) if choice.finished else act(_placed(cfg, choice.folder))


def _telling(config: dict[str, Any]) -> Callable[[Any], Any]:
    """A function that gives the first process's value on every process of this run, once they have met.

    Whether a run is finished is for the first process alone to say: the folders that Hydra makes differ from process to
    process, and one that found work to do would wait for the others for ever.
    """
    started = (os.environ.get(name) or "1" for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    if not any(count.isdigit() and int(count) > 1 for count in started):
        return _alone
    from lightning_modules.trainer import joined_processes
    from parallax.models import processes

    joined_processes(Trainer.of(config["trainer"]))
    return processes.broadcast


def _alone(value: object) -> Any:
    return value


def choose(resume: str, key: str, task: str, own: Path, *, named: bool = False) -> Choice:
    """The folder of a run with this key; `named`: `own` is the user's choice, and nowhere else is looked.

    Raises:
        FolderInUse: the very same run is going on somewhere else.
        FileExistsError: the folder holds a run of another configuration, or any run with `resume=never`.
        FileNotFoundError: `resume` names a folder that is not there.
    """
    if resume not in ("auto", "never"):
        folder = Path(resume)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"resume={resume} is no folder here; name the run folder to go on with, auto or never"
            )
        return _going_on(folder, state_of(folder), key, task)
    if resume == "never":
        if (own / "stages").exists():
            raise FileExistsError(f"resume=never, and {own} holds a run already; {ADVICE}")
        return Choice(own)
    there = state_of(own)
    if there is not None:  # a folder of the user's own choice
        return _going_on(own, there, key, task)
    if named or not task_fact(task, "resumes"):
        return Choice(own)
    for folder, state in runs_beside(own.resolve()):
        if state.key != key or state.task != task:
            continue
        if (holder := in_use(folder)) is not None:
            raise FolderInUse(
                f"this very run is going on in {folder} ({holder}); wait for it, or start another with resume=never"
            )
        if state.code != code_digest():
            said = f"{folder} holds this run, made by other code, and stays as it is; resume={folder} goes on with it"
            return Choice(own, said=said)
        return _going_on(folder, state, key, task)
    return Choice(own)


@contextmanager
def held(choice: Choice, key: str, task: str) -> Iterator[Path]:
    """Lock the folder and keep its state; signals are requests to stop while inside."""
    with RunLock(choice.folder) as lock, listening():
        if choice.said:
            log.warning(choice.said)
        if lock.stale is not None:
            log.warning("the lock of %s, which is gone, was left behind and is taken over", lock.stale)
        state = RunState.new(key, code_digest(), task)
        if choice.before is not None:
            remove_leftovers(choice.folder)
            state = replace(state, started=choice.before.started)
        state.write(choice.folder)
        try:
            yield choice.folder
        except Interrupted:
            replace(state, state="interrupted", ended=now()).write(choice.folder)
            raise
        except BaseException as error:
            _note_failure(choice.folder, state, error)
            raise
        replace(state, state="finished", ended=now()).write(choice.folder)


def is_helper() -> bool:
    """Whether this is a further process of a run that another one (rank 0) leads."""
    ranks = [os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if os.environ.get(name)]
    return bool(ranks) and ranks[0] != "0"


def took_place() -> Path | None:
    """Where the run took place that this process has made, or found finished, since it was last asked. Need not be Hydra's."""
    place = _places[-1] if _places else None
    _places.clear()
    return place


def discard_unused(folder: Path) -> None:
    """Remove a folder that holds nothing but what every task leaves, and the folders above it that are empty then."""
    try:
        if {path.name for path in folder.iterdir()} - BOOKKEEPING or in_use(folder) is not None:
            return
    except OSError:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for empty in (folder.parent, folder.parent.parent):
        try:
            empty.rmdir()
        except OSError:
            return


def discard_empty(folder: Path) -> None:
    """Remove the folder Hydra has just made for this run, which takes place elsewhere."""
    try:
        if {path.name for path in folder.iterdir()} - {".hydra"}:
            return
    except OSError:  # another process has removed it, or there never was one
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for empty in (folder, folder.parent):
        try:
            empty.rmdir()
        except OSError:  # the day has other runs
            return


def _going_on(folder: Path, state: RunState | None, key: str, task: str) -> Choice:
    if state is None or state.task != task:
        return Choice(folder)
    same = state.key == key
    if not same and (folder / "stages").exists():
        raise FileExistsError(f"{folder} holds a run of another configuration (see its config.yaml); {ADVICE}")
    if same and state.finished and any((folder / name).is_file() for name in RESULTS):
        other = "" if state.code == code_digest() else " (by other code)"
        done = f"this run is finished{other}: {folder}, {state.ended}; resume=never runs it once more"
        return Choice(folder, state, finished=True, said=done)
    said: str | None = None
    if not same and not state.finished:
        said = f"in {folder}, in place of a run of another configuration, which {state.words()}"
    elif not state.finished:
        said = f"going on with the run in {folder}, which {state.words()} (started {state.started})"
    if same and state.code != code_digest():
        said = f"{said or f'going on in {folder}'}; the code has changed since, so the result may be another"
    return Choice(folder, state, said=said)


def _finished(choice: Choice) -> Any:
    _places.append(choice.folder)
    path = next(choice.folder / name for name in RESULTS if (choice.folder / name).is_file())
    results: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if is_helper():
        return results if path.name == "results.json" else {"pairs": results}
    if path.name == "results.json":
        from parallax.reports.results import print_results

        print_results(results)
    else:
        results = {"pairs": results}
    if is_shown():
        say(choice.said)
    return results


def _placed(cfg: DictConfig, folder: Path) -> DictConfig:
    _places.append(folder)
    with open_dict(cfg):
        cfg.paths.output_dir = str(folder)
        cfg.resume = str(folder) if str(cfg.resume) not in ("never",) else cfg.resume
    return cfg


def _note_failure(folder: Path, state: RunState, error: BaseException) -> None:
    """Mark the run failed and keep the whole trace beside it; on a full disk neither may be possible."""
    why = str(error).strip().split("\n")[0] or type(error).__name__
    try:
        with open(folder / "error.log", "a", encoding="utf-8") as file:
            file.write(f"{now()}\n{''.join(traceback.format_exception(error))}\n")
        error.add_note(f"The whole trace is in {folder / 'error.log'}.")
        replace(state, state="failed", ended=now(), why=why).write(folder)
    except OSError as second:
        if second.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
