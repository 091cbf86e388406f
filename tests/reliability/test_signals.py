"""Asked to stop, a run saves first and leaves with a shell's status; the same command goes on to the very same result."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.faults import Injected
from tests.reliability.program import SMALL, Program, run
from tests.reliability.sameness import differences, only_run, results_of

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "align", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
WORDS = (*SMALL, "method=seva", "trainer.checkpoint.every_n_steps=1000", "trainer.max_epochs=6")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(WORDS, folder)
    assert done.status == 0, done.screen
    return only_run(folder)


@pytest.mark.parametrize(
    ("signum", "moment", "environment"),
    [
        pytest.param(signal.SIGTERM, "step 5 of", SLURM, id="Slurm's pre-emption while training"),
        pytest.param(signal.SIGINT, "stage align", {}, id="Ctrl-C while pairs are built"),
        pytest.param(signal.SIGUSR1, "step 5 of", SLURM, id="Slurm's warning", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "evaluating before", {}, id="SIGTERM while evaluating", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_first(
    tmp_path: Path, whole: Path, injected: Injected, signum: signal.Signals, moment: str, environment: dict[str, str]
) -> None:
    program = Program([*WORDS, "trainer.print_every_n_steps=1"], tmp_path, environment=environment)
    program.wait_for(moment)
    program.signal(signum)
    left = program.wait()
    assert left.status == 128 + signum, left.screen
    assert f"{signum.name}: stopping as soon as" in left.screen and "Traceback" not in left.screen
    (state,) = (tmp_path / "outputs").glob("*/*/run_state.json")
    assert json.loads(state.read_text())["state"] == "interrupted"
    if "step" in moment:
        assert list(state.parent.glob("stages/align/checkpoints/step-*.ckpt")), "nothing was saved"
    again = run([*WORDS, "trainer.print_every_n_steps=1"], tmp_path, environment=environment)
    assert again.status == 0 and "which was stopped" in again.screen, again.screen
    assert not differences(results_of(whole), results_of(only_run(tmp_path)))
    injected(
        f"{signum.name}{' under Slurm' if environment else ''}",
        same=1,
        says="saved, left; the same command ends with the same result",
    )


def test_a_second_ctrl_c_leaves_at_once_and_does_no_harm(tmp_path: Path, whole: Path, injected: Injected) -> None:
    program = Program(WORDS, tmp_path)
    program.wait_for("evaluating before")
    program.signal(signal.SIGINT)
    time.sleep(0.02)
    program.signal(signal.SIGINT)
    asked = time.monotonic()
    left = program.wait()
    assert left.status == 130 and time.monotonic() - asked < 5
    again = run(WORDS, tmp_path)
    assert again.status == 0, again.screen
    assert not differences(results_of(whole), results_of(only_run(tmp_path)))
    injected("second Ctrl-C", same=1, says="left at once; the same command ends with the same result")
