"""Several processes as torchrun would start them, for tests: forks of this one, so that nothing is imported again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_processes(count: int, act: Callable[..., Any], *args: Any, timeout: float = 300.0) -> None:
    """Call `act(*args)` in `count` new processes that know of each other. Raises AssertionError with what went wrong in one."""
    context = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = context.Queue()
    made = [
        context.Process(target=_child, args=(number, count, port, errors, act, args)) for number in range(count)
    ]  # not daemons: loaders may start workers
    for process in made:
        process.start()
    try:
        for process in made:
            process.join(timeout)
        failed = [process.exitcode for process in made]
        assert failed == [0] * count, f"exit codes {failed}\n" + ("" if errors.empty() else errors.get())
    finally:
        for process in made:
            if process.is_alive():
                process.kill()


def _child(number: int, count: int, port: int, errors: Any, act: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "RANK": str(number),
        "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "NODE_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        act(*args)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except BaseException:
        errors.put(f"process {number}:\n{traceback.format_exc()}")
        errors.close()
        errors.join_thread()
        os._exit(1)
    os._exit(0)


def write_here(folder: Path, name: str, value: Any) -> None:
    """Save something of this process, `<name>-<number>.pt`."""
    torch.save(value, folder / f"{name}-{os.environ.get('RANK', '0')}.pt")
