"""A real vLLM, started by the tests that need one. It lives in an environment of its own, which `PARALLAX_VLLM` names."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

VARIABLE = "PARALLAX_VLLM"  # the program, e.g. ~/vllm/bin/vllm
PATIENCE = 600  # seconds for it to start
needs_vllm = pytest.mark.skipif(
    shutil.which(os.environ.get(VARIABLE, "")) is None,
    reason=f"{VARIABLE} names no vLLM: set it to the program `vllm` of an environment where vLLM is installed",
)


@contextmanager
def vllm_serving(model: Path, log: Path, *words: str) -> Iterator[str]:
    """The URL of a vLLM that serves `model` in float32 as `tiny`, and adapters, while inside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        os.environ[VARIABLE], "serve", str(model), "--served-model-name", "tiny", "--port", str(port), "--dtype", "float32",
        "--max-model-len", "512", "--limit-mm-per-prompt", '{"image": 1}', "--enforce-eager", "--enable-lora",
        "--max-lora-rank", "32", *words,
    ]  # fmt: skip
    theirs = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    with log.open("w") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=ours | theirs, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, f"{url}/health", log)
        yield f"{url}/v1"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"vLLM did not start:\n{log.read_text('utf-8', 'replace')[-6000:]}")
