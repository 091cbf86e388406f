"""The run's log: everything into `run.log`, the essential on the screen, other people's chatter nowhere."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parallax.records.plain_text import printable, say

CHATTY = (
    "transformers", "huggingface_hub", "datasets", "torch", "torch.distributed", "pytorch_lightning",
    "lightning_fabric", "wandb", "git", "urllib3", "httpx", "httpx2", "httpcore", "fsspec", "filelock", "PIL", "matplotlib",
    "bitsandbytes", "peft",
    "tensorboard", "asyncio", "numexpr", "accelerate",
)  # fmt: skip
_quiet = False
OURS = ("parallax", "augment", "datamodules", "lightning_modules")
_MESSAGES = (  # said by Lightning and friends on every run, about things that are as they should be
    r".*does not have many workers.*",
    r".*The `srun` command is available.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*GPU available but not used.*",
    r".*Starting from v.*",
    r".*You called `self\.log\(.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
)


def is_shown() -> bool:
    """Whether runs tell on the screen what they do; the jobs of a multirun keep it to their `run.log`."""
    return not _quiet


@contextmanager
def only_warnings() -> Iterator[None]:
    """While inside, `run_log` brings nothing but warnings to the screen."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


@contextmanager
def run_log(run_folder: Path | str, *, level: str = "INFO", screen: bool = True, number: int = 0) -> Iterator[Path]:
    """While inside, log records go to `<run_folder>/run.log` (with time and origin) and, short, to the screen.

    Args:
        level: of our own records on the screen; the file holds DEBUG and up of ours.
        screen: False logs to the file only (tests, worker processes).
        number: of this process; all but the first write to a file of their own, `run-<number>.log`, and only there.
    """
    path = Path(run_folder) / (f"run-{number}.log" if number else "run.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    kept_level, kept_handlers = root.level, list(root.handlers)
    file = LogFile(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    file.setLevel(logging.DEBUG)
    handlers: list[logging.Handler] = [file]
    if screen and not number:
        handlers.append(_Screen())
        handlers[-1].setLevel(level if is_shown() else logging.WARNING)
    with warnings.catch_warnings():
        quiet_third_parties()
        logging.captureWarnings(True)
        root.handlers[:] = handlers
        root.setLevel(logging.WARNING)  # of libraries that CHATTY does not name
        for name in OURS:
            logging.getLogger(name).setLevel(logging.DEBUG)
        try:
            yield path
        finally:
            logging.captureWarnings(False)
            root.handlers[:] = kept_handlers
            root.setLevel(kept_level)
            file.close()


class LogFile(logging.FileHandler):
    """A log file that costs no run: when it cannot be written (a full disk), that is said once, in a sentence."""

    _told = False

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `emit` inside its `except`."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            say(
                f"{self.baseFilename} cannot be written ({error.strerror}); it will lack lines",
                sys.stderr,
            )

    def close(self) -> None:
        """What could not be written is not tried again."""
        with suppress(OSError):
            super().close()


def quiet_third_parties() -> None:
    """Let libraries speak from ERROR on (their warnings about healthy runs hide our own). Imports none of them."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if there := sys.modules.get("transformers.utils.logging"):  # it reads the above when it is imported
        there.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for message in _MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)


class _Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """One line per event on standard output, whatever the width: time, message, and for more than news its weight."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("%(asctime)s %(weight)s%(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout  # a progress bar puts itself in between while it is shown
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        record.weight = f"{record.levelname}: " if record.levelno > logging.INFO else ""
        return printable(" ".join(super().format(record).splitlines()))
