"""How the jobs of a multirun are started (`hydra/launcher=…`), and which jobs a launcher cannot start.

Lightning starts the processes of a run by giving its whole command again. Under `-m` that command is the sweep: each process
would begin it anew. Jobs of several processes therefore need a launcher that starts the processes itself, which is Slurm, or a
command per job.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from parallax.settings.extras import install
from parallax.settings.places import COMMAND, IS_CLONE
from parallax.settings.tasks import task_fact

PLUGINS = {  # launchers and sweepers that are packages of their own: pattern → (module, extra of ours that brings it)
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    r"hydra/launcher=(submitit_\w+|slurm_\w+)": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    r"hydra/sweeper=optuna\w*": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
}
OF_A_SWEEP = (
    "hydra/launcher",
    "hydra.launcher",
    "hydra.sweep",
    "hydra.mode=MULTIRUN",
)  # words that a single run does without
TORCHRUN = "torchrun … run.py" if IS_CLONE else "torchrun … --no-python parallax"
SHOWN = 4  # points written out in a message


def missing_plugin(choice: str) -> str:
    """What to install for a choice such as `hydra/launcher=joblib`; empty where nothing is missing."""
    for pattern, (module, extra) in PLUGINS.items():
        if re.fullmatch(pattern, choice) and not _is_there(module):
            return f"{choice} needs a package that is not installed: {install(extra)} (our extra `{extra}`)."
    return ""


def multirun_problem(
    launcher: Mapping[str, Any], plain: Mapping[str, Any], shared: Sequence[str], points: Sequence[Sequence[str]]
) -> str:
    """Why the jobs of a multirun cannot be started this way, with a command that can; empty where they can.

    Args:
        launcher: Hydra's `hydra.launcher`.
        plain: `task` and `trainer` of a job.
        shared: typed words that all jobs have in common.
        points: typed words in which jobs differ, one list for each job.
    """
    trainer = plain["trainer"]
    if not task_fact(plain["task"]["name"], "resumes"):
        return ""
    if "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return (
            "-m was started in several processes (torchrun), and each would go through the whole sweep in folders of its own. "
            f"Start them once for each point: {_loop(TORCHRUN, shared, points)}."
        )
    if str(launcher.get("_target_", "")).endswith(".SlurmLauncher"):
        return _slurm_problem(launcher, trainer)
    processes = processes_of(trainer)
    if processes == 1:
        return ""
    program = COMMAND if trainer["num_nodes"] == 1 else TORCHRUN
    return (
        f"-m does not go with jobs of {processes or 'several'} processes (trainer.devices={trainer['devices']}, "
        f"trainer.num_nodes={trainer['num_nodes']}): each process is started with the whole command, and would begin the whole "
        f"sweep. Start a command for each point: {_loop(program, shared, points)}. Or use trainer.devices=1, or let Slurm start "
        "the processes: hydra/launcher=slurm_8gpus trainer.devices=8."
    )


def processes_of(trainer: Mapping[str, Any]) -> int:
    """Processes that a `trainer` group asks for on all machines together; 0 where the number is not known."""
    devices, nodes = trainer["devices"], int(trainer["num_nodes"])
    if devices == "auto":
        devices = 1 if trainer["accelerator"] == "cpu" else len(visible_gpus()) or int(trainer["accelerator"] == "auto")
    return int(devices) * nodes


def visible_gpus() -> list[str]:
    """GPUs of this machine by the number CUDA knows them, without asking torch: `CUDA_VISIBLE_DEVICES`, or device files."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    files = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in files if name.isdigit()), key=int)


def has_no_gpu() -> bool:
    """Whether it is plain, without asking torch, that there is none: no device file of CUDA, ROCm or WSL, or none visible."""
    there = any(Path("/dev", name).exists() for name in ("nvidiactl", "nvidia0", "kfd", "dxg"))
    return sys.platform == "linux" and (not there or not os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip())


def _slurm_problem(launcher: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    """Slurm starts `tasks_per_node` processes on each of `nodes`; the trainer has to be told the same numbers."""
    nodes, tasks = int(launcher["nodes"]), int(launcher["tasks_per_node"])
    devices = launcher["gpus_per_node"] if trainer["devices"] == "auto" else trainer["devices"]
    if (devices, trainer["num_nodes"]) == (tasks, nodes):
        return ""
    if devices is None:
        return (
            f"trainer.devices=auto is known only on the machine itself, and Slurm starts {tasks} processes on each. "
            f"Use trainer.devices={tasks}, or say hydra.launcher.gpus_per_node."
        )
    strategy = " trainer=ddp" if trainer["strategy"] == "auto" and tasks * nodes > 1 else ""
    return (
        f"hydra.launcher starts {tasks} processes per node (nodes: {nodes}), and trainer.devices={trainer['devices']} "
        f"trainer.num_nodes={trainer['num_nodes']} asks for others. Use{strategy} trainer.devices={tasks} "
        f"trainer.num_nodes={nodes}, or hydra.launcher.tasks_per_node={devices} hydra.launcher.gpus_per_node={devices} "
        f"hydra.launcher.nodes={trainer['num_nodes']}."
    )


def _loop(program: str, shared: Sequence[str], points: Sequence[Sequence[str]]) -> str:
    """A line of shell that runs one command for each point."""
    words = shlex.join(word for word in shared if not word.startswith(OF_A_SWEEP))
    command = f"{program} {words}".rstrip()
    if len(points) < 2:
        return f"{command} {shlex.join(points[0])}".rstrip()
    shown = " ".join(shlex.quote(" ".join(point)) for point in islice(points, SHOWN))
    more = " …" if len(points) > SHOWN else ""
    return f"for point in {shown}{more}; do {command} $point; done"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
