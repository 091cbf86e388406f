"""Errors as users see them: what we foresaw comes as its sentence, with the trace in a file; anything else with its trace.

An error is foreseen when our own code raised it on purpose (its innermost line is a `raise` of ours), or when it says that a disk
is full or cannot be written, whichever library met it.
"""

from __future__ import annotations

import ast
import errno
import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from traceback import walk_tb
from types import TracebackType

import hydra

from parallax.settings.places import PACKAGES as ROOT
from parallax.tasks.disk_room import FULL, NoRoom
from parallax.tasks.recipe import CODE

FORESEEN = (ValueError, OSError, RuntimeError)
NEVER = (RecursionError, NotImplementedError, UnicodeError)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)
WRITERS_WORDS = (  # how libraries say that writing failed, without the system's number
    (r"PytorchStreamWriter failed|unexpected pos \d+", errno.ENOSPC),
    (r"No space left on device|os error 28", errno.ENOSPC),
    (r"Disk quota exceeded|os error 122", errno.EDQUOT),
    (r"File too large|os error 27", errno.EFBIG),
    (r"Read-only file system|os error 30", errno.EROFS),
)
IN_WORKER = re.compile(r"^Caught \w+ in .*worker process.*Original Traceback", re.DOTALL)


def sentence_of(error: BaseException) -> str | None:
    """What to tell the user, or None for an error that nobody foresaw."""
    if isinstance(error, NoRoom):
        return str(error)  # it names the key, which its cause cannot
    for cause in _chain(error):
        if (said := disk_sentence(cause)) is not None:
            return said
    if isinstance(error, NEVER):
        return None
    ours = type(error).__module__.split(".")[0] in CODE
    if not (isinstance(error, FORESEEN) or ours):
        return None
    text = str(error).strip()
    if IN_WORKER.match(text):
        return text.splitlines()[-1].partition(": ")[2] if ours else None
    return text if text and _on_purpose(error.__traceback__) else None


def disk_sentence(error: BaseException) -> str | None:
    """The sentence for a write that failed because of the disk; None for any other error."""
    number = _number(error)
    if number in FULL:
        where = _where(error)
        return (
            f"{FULL[number]}{where}. Nothing that was written before is damaged. Free some space and give the same command "
            "again: it goes on from what is saved"
        )
    if number == errno.EROFS:
        name = getattr(error, "filename", None) or "where the run writes"
        return (
            f"the file system is read-only: {name}. Choose other folders with paths.output_dir and paths.cache_dir, or make "
            "this one writable"
        )
    if isinstance(error, OSError) and _by_hydra(error.__traceback__):
        return f"the run folder {error.filename} cannot be made ({error.strerror}); choose another folder"
    if number in NOT_ALLOWED and isinstance(error, OSError) and error.filename is not None:
        return f"this user may not open {error.filename}; look at its owner and permissions"
    return None


def told_notes(error: BaseException) -> list[str]:
    """What was added to the error on its way, such as where its trace is."""
    return list(getattr(error, "__notes__", ()))


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    unspecific = type(error) is Exception  # what the tokenizers library raises
    named = type(error).__name__ in ("SafetensorError", "ArrowException")
    if isinstance(error, OSError | RuntimeError) or named or unspecific:
        return next((number for words, number in WRITERS_WORDS if re.search(words, str(error))), None)
    return None


def _where(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    if name is None:
        found = re.search(r"'(/[^']+)'", str(error))
        name = found[1] if found else None
    if name is None:
        return ""
    folder = Path(str(name))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return f" ({name}; {free / 2**20:,.0f} MiB are free there)"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


def _by_hydra(trace: TracebackType | None) -> bool:
    """Whether Hydra met the error itself while it made the run folder."""
    package = Path(hydra.__file__).parent
    code = [frame.f_code for frame, _ in walk_tb(trace)]
    return any(
        made.co_name == "mkdir" and Path(caller.co_filename).is_relative_to(package) for caller, made in pairwise(code)
    )


def _on_purpose(trace: TracebackType | None) -> bool:
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = Path(trace.tb_frame.f_code.co_filename).resolve()
    if not any(file.is_relative_to(ROOT / top) for top in CODE):
        return False
    return any(first <= trace.tb_lineno <= last for first, last in _raises(file))


@lru_cache(maxsize=32)
def _raises(file: Path) -> list[tuple[int, int]]:
    """First and last line of every `raise` in a source file."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Raise)]
    return [(node.lineno, node.end_lineno or node.lineno) for node in nodes]
