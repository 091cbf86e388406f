"""Imports the program once and forks a process for every command line it is sent. Started by `program.py`; speaks lines of JSON.

{"start": {"words", "folder", "screen", "variables", "file_size"}} → {"pid"}      {"ask": pid} → {"status": null or number}
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "hydra", "torch", "torchvision", "transformers", "peft", "pytorch_lightning", "pyarrow.parquet", "rich.console",
    "parallax.tasks.align", "parallax.tasks.training", "parallax.tasks.parts", "parallax.tasks.evaluate",
    "parallax.models.loading", "datamodules.preference", "datamodules.supervised", "parallax.reports.run_report",
    "transformers.models.llava.modeling_llava", "transformers.models.llava.processing_llava",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.processing_auto",
)  # fmt: skip


def main() -> None:
    sys.path.insert(0, str(ROOT))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    for name in PRELOADED:
        importlib.import_module(name)
    ended: dict[int, int] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "start" in message:
            pid = os.fork()
            if pid == 0:
                answers.close()
                os._exit(child(message["start"]))
            answer: dict[str, Any] = {"pid": pid}
        else:
            pid = message["ask"]
            if pid not in ended and (known := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = os.waitstatus_to_exitcode(known[1])
            answer = {"status": ended.get(pid)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def child(start: dict[str, Any]) -> int:
    """Run the program as a shell would; its exit status."""
    os.setsid()
    screen = os.open(start["screen"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for handle in (1, 2):
        os.dup2(screen, handle)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(start["variables"])
    tempfile.tempdir = None  # what an import asked for holds for the server, not for this program
    os.chdir(start["folder"])
    sys.argv[:] = [str(ROOT / "run.py"), *start["words"]]
    if start["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (start["file_size"], resource.RLIM_INFINITY))
    status = 0
    try:
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    main()
