"""Which device a process works on, and what a GPU has to be told before it works well. Asked before weights are read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

log = logging.getLogger(__name__)

DEVICES, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")


def accelerator_for(name: str) -> str:
    """`cpu` or `gpu` for trainer.accelerator; `auto` is the GPU where there is one.

    Raises RuntimeError where a GPU is asked for, or is in the machine, and torch cannot use it: training in float32 on one
    core instead, without a word, would cost a day.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available() and not _has_gpu()):
        return "cpu"
    if torch.cuda.is_available():
        return "gpu"
    if not _has_gpu():
        raise RuntimeError("trainer.accelerator=gpu, but torch sees no GPU here; use trainer=cpu or trainer=auto")
    if torch.version.cuda is None:
        raise RuntimeError(
            f"this machine has a GPU, and torch {torch.__version__} was built without CUDA; install the build for CUDA that "
            "pytorch.org names for your driver, or use trainer=cpu to compute on the CPU"
        )
    raise RuntimeError(
        f"this machine has a GPU, and torch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot use it: "
        f"{_driver()}. Install a driver that knows this CUDA, or a torch that was built for an older one, or use trainer=cpu to "
        "compute on the CPU"
    )


def pick_device(accelerator: str) -> str:
    """The device of this process, with its index: weights that are read onto a bare "cuda" all land on the first GPU.

    Each process of a machine has the GPU of its local rank. cuDNN's attention, which scaled_dot_product_attention asks
    first on Hopper, is switched off: it builds a plan of about half a second for every new shape, and nearly every pass of
    an epoch has a shape of its own.
    """
    if accelerator_for(accelerator) == "cpu":
        return "cpu"
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0
    device = f"cuda:{int(local) % torch.cuda.device_count()}"
    torch.cuda.set_device(device)
    if torch.backends.cuda.cudnn_sdp_enabled():
        torch.backends.cuda.enable_cudnn_sdp(False)
        log.info("cuDNN's attention is off: it plans for each shape anew, and rows differ in length")
    return device


def has_bfloat16() -> bool:
    """Whether the GPU multiplies bfloat16 itself; older ones (T4, V100) imitate it, slowly."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def local_processes() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def image_workers(wanted: int | str) -> int:
    """Processes that prepare images for a fit: `wanted`; for "auto" none on a CPU, which they would take from the model."""
    if wanted != "auto":
        return int(wanted)
    return share_of_cores() if torch.cuda.is_available() else 0


def share_of_cores(most: int = 8) -> int:
    """A quarter of the cores this process may use, divided by the processes of this machine; at most `most`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(most, cores // local_processes() // 4)


def _has_gpu() -> bool:
    """Whether a GPU of NVIDIA's is in the machine and was not hidden, whatever torch sees."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(path.name.removeprefix("nvidia").isdigit() for path in DEVICES.glob("nvidia[0-9]*"))


def _driver() -> str:
    try:
        words = DRIVER.read_text(encoding="utf-8").split()
    except OSError:
        return "no driver is loaded"
    version = next((word for word in words if word[:1].isdigit() and "." in word), "of unknown version")
    return f"the driver is {version}"
