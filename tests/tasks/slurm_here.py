"""The two programs of Slurm that a launcher calls, for this machine: sbatch starts the jobs of an array at once, srun their
processes, with the variables that Slurm sets. There are no queue, no limits and no other machines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SBATCH = """
import os, re, subprocess, sys
script = sys.argv[-1]
said = dict(re.findall(r"^#SBATCH --([\\w-]+)=(.*)$", open(script).read(), re.MULTILINE))
last = int(re.search(r"-(\\d+)", said["array"])[1]) if "array" in said else None
nodes, tasks = int(said["nodes"]), int(said["ntasks-per-node"])
for index in range(1 + (last or 0)):
    given = {
        "SLURM_JOB_ID": 4100 + index, "SLURM_JOB_NAME": "run", "SLURM_JOB_NUM_NODES": nodes, "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NODELIST": "localhost", "SLURM_NTASKS": nodes * tasks, "SLURM_NTASKS_PER_NODE": tasks,
    }
    if last is not None:
        given |= {"SLURM_ARRAY_JOB_ID": 4100, "SLURM_ARRAY_TASK_ID": index}
    environment = {**os.environ, **{name: str(value) for name, value in given.items()}}
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen(["bash", script], env=environment, process_group=0, **quiet)
print("Submitted batch job 4100")
"""
SRUN = """
import os, subprocess, sys
words = sys.argv[1:]
options = dict(zip(words[1:5:2], words[2:6:2]))  # --unbuffered --output <file> --error <file> <command>
array = f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
made = []
for number in range(int(os.environ["SLURM_NTASKS"])):
    values = {"%A_%a": array, "%j": os.environ["SLURM_JOB_ID"], "%t": str(number)}
    names = [options[key] for key in ("--output", "--error")]
    for pattern, value in values.items():
        names = [name.replace(pattern, value) for name in names]
    files = [open(name, "a") for name in names]
    environment = {**os.environ, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NODEID": "0"}
    made.append(subprocess.Popen(words[5:], env=environment, stdout=files[0], stderr=files[1]))
sys.exit(max(process.wait() for process in made))
"""


def put_slurm(folder: Path) -> dict[str, str]:
    """Write the programs into `folder`; returns an environment in which they are found first."""
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        (folder / name).write_text(f"#!{sys.executable} -S{text}")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
