"""Commands that are killed at random moments, the same command once more, and the comparison with a run that nobody touched."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.reliability.program import SMALL, Ended, Program, run
from tests.reliability.sameness import bytes_that_differ, differences, only_run, results_of

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)  # in turn
PHASES = {  # what stands last on the screen → what the run was doing
    "run folder": "loading", "stage ": "pair building", "pairs: ": "reference scoring", "reference log-probs: ": "training",
    ": step ": "training", "evaluating ": "evaluation", "evaluated ": "results and export", "adapter in": "report",
    "merged model in": "report", "pair set in": "report", "sweep ": "starting a point",
}  # fmt: skip

Results = Callable[[Path], dict[str, Any]]


def of_a_run(folder: Path) -> dict[str, Any]:
    return results_of(only_run(folder))


def of_an_evaluation(folder: Path) -> dict[str, Any]:
    """No weights are written, so there are few files to compare byte for byte."""
    return of_a_run(folder)


def of_a_pair_set(folder: Path) -> dict[str, Any]:
    (found,) = [path.parent for path in (folder / "outputs").glob("*/*/pairs.json")]
    return results_of(found)


def of_jobs(folder: Path) -> dict[str, Any]:
    """Of a multirun over `loss.beta`, and the comparison at its end: each job is found once, wherever it took place."""
    found: dict[str, Any] = {}
    for path in (folder / "multirun").glob("*/*/*/results.json"):
        beta = yaml.safe_load((path.parent / "config.yaml").read_text("utf-8"))["loss"]["beta"]
        assert beta not in found, f"the job with loss.beta={beta} was made twice"
        found[beta] = results_of(path.parent)
    assert len(found) == 2, f"jobs that have ended: {sorted(found)}"
    return found


def of_points(folder: Path) -> dict[str, Any]:
    found = {path.parent.name: results_of(path.parent) for path in (folder / "outputs/sweeps").glob("*/*/results.json")}
    assert len(found) == 2, f"points that have ended: {sorted(found)}"
    return found


def of_a_merged_model(folder: Path) -> dict[str, Any]:
    files = [path for path in sorted((folder / "merged").rglob("*")) if path.is_file()]
    assert len(files) > 5
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Scenario:
    """A command and what of it must be the same. `{made}` in a word is the folder of an ordinary run that ended before.

    after: kills fall only after these words have been said. whole_group: SIGKILL meets all processes of the command, as a power
    cut does, and not only the one that was started.
    """

    words: tuple[str, ...]
    results: Results = of_a_run
    after: str = ""
    whole_group: bool = False


ALIGN = (*SMALL, "method=seva", "evaluation.when=[after]")
SWEEP = """name: two
program: run.py
method: grid
metric: {name: eval/chair_i, goal: minimize}
parameters:
  loss.beta: {values: [0.5, 2.0]}
command: ["${env}", "${interpreter}", "${program}", method=seva, "${args_no_hyphens}"]
"""
SCENARIOS = {
    "a run of one stage": Scenario(ALIGN),
    "a run of two stages": Scenario((*SMALL, "method=stic", "stages.infuse.data.size=10")),
    "a run whose pairs are built anew every two steps": Scenario(
        (*SMALL, "method=seva", "pairs.refresh=2_steps", "evaluation.every_n_steps=2", "export.merged=true")
    ),
    "a run of one stage, from its training on": Scenario(
        (*ALIGN, "trainer.max_epochs=8"), after="reference log-probs: "
    ),
    "a run of two rounds": Scenario((*SMALL, "method=csr", "method.rounds=2", "evaluation.when=[after]")),
    "a run of two rounds, in its second": Scenario(
        (*SMALL, "method=csr", "method.rounds=2", "evaluation.when=[after]"), after="stage round_2"
    ),
    "a run with an image term": Scenario((*ALIGN, "loss=mdpo")),
    "a run of online DPO": Scenario((*SMALL, "method=online_dpo", "evaluation.when=[after]")),
    "task=build_pairs": Scenario((*SMALL, "method=seva", "task=build_pairs", "data.size=60"), of_a_pair_set),
    "task=evaluate": Scenario(
        (*SMALL, "task=evaluate", "adapter={made}/stages/align/adapter", "evaluation.scenes=30"), of_an_evaluation
    ),
    "task=merge": Scenario(
        (*SMALL, "task=merge", "adapter={made}/stages/align/adapter", "task.output=merged"), of_a_merged_model
    ),
    "a multirun": Scenario(("-m", *ALIGN, "loss.beta=0.5,2.0"), of_jobs),
    "task=sweep": Scenario((*ALIGN, "task=sweep", "sweep=two.yaml"), of_points),
    "task=sweep with its workers": Scenario((*ALIGN, "task=sweep", "sweep=two.yaml"), of_points, whole_group=True),
}


@dataclass(frozen=True)
class Untouched:
    """A command that nobody stopped: its results, how long it took, and when the kills may begin; seconds."""

    words: tuple[str, ...]
    results: dict[str, Any]
    seconds: float
    begin: float


def untouched(name: str, folder: Path, made: Path | None) -> Untouched:
    """Run the command twice: the first time whatever is slow only once happens, and both must give the same files."""
    scenario = SCENARIOS[name]
    words = tuple(word.format(made=made) if "{made}" in word else word for word in scenario.words)
    for place in ("first", "whole"):
        prepare(folder / place)
        program, begin = Program(words, folder / place), 0.0
        if scenario.after:
            program.wait_for(scenario.after)
            begin = program.seconds
        done = program.wait()
        assert done.status == 0, done.screen
    if scenario.results is of_a_run:
        other = bytes_that_differ(only_run(folder / "first"), only_run(folder / "whole"))
        assert not other, f"the same command, other files: {other}"
    results = scenario.results(folder / "whole")
    assert results and not differences(scenario.results(folder / "first"), results)
    return Untouched(words, results, done.seconds, begin)


def prepare(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "two.yaml").write_text(SWEEP)


@dataclass(frozen=True)
class Killed:
    """One kill: when, by what, what the run was doing, and what differs in the end (nothing, if all is well)."""

    signum: signal.Signals
    seconds: float
    phase: str
    wrong: str


def kill_and_go_on(name: str, number: int, of: int, whole: Untouched, folder: Path) -> Killed:
    """Kill number `number` of `of`: they are spread over the whole duration, each at a random moment of its share."""
    scenario, draw = SCENARIOS[name], random.Random(f"{name} {number} {of}")
    signum = SIGNALS[number % len(SIGNALS)]
    if scenario.whole_group:
        signum = signal.SIGKILL
    share = (number + draw.random()) / of
    for _ in range(12):
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder)
        moment = whole.begin + share * (whole.seconds - whole.begin)
        stopped = killed(whole.words, folder, moment, signum, scenario)
        if stopped is not None:
            break
        share *= draw.uniform(0.5, 0.95)  # it had ended before: this machine is faster now
    else:
        raise AssertionError("it ended before every kill")
    again = run(whole.words, folder)
    return Killed(signum, moment, phase_of(stopped.screen), what_is_wrong(scenario, whole, stopped, again, folder))


def killed(
    words: Sequence[str], folder: Path, moment: float, signum: signal.Signals, scenario: Scenario
) -> Ended | None:
    """Start, send the signal at that moment, wait for the end. None when the process had ended by itself."""
    program = Program(words, folder)
    if scenario.after:
        program.wait_for(scenario.after)
    program.sleep_until(moment)
    if program.status is not None:
        return None
    group = signum == signal.SIGINT or scenario.whole_group  # Ctrl-C reaches every process of a terminal
    if group and os.getpgid(program.pid) == program.pid:  # which it is from its first moment on, almost
        os.killpg(program.pid, signum)
    else:
        program.signal(signum)
    return program.wait()


def what_is_wrong(scenario: Scenario, whole: Untouched, stopped: Ended, again: Ended, folder: Path) -> str:
    done = "is not empty" in again.screen and scenario.results is of_a_merged_model  # it was complete, and says so
    if again.status != 0 and not done:
        return f"it did not go on:\n{stopped.screen}\n-- again:\n{again.screen}"
    try:
        different = differences(whole.results, scenario.results(folder))
    except (AssertionError, ValueError, OSError) as error:
        return f"{error}\n{again.screen}"
    if scenario.results is of_jobs and "2 runs: answers" not in again.screen:
        return f"the jobs were not compared in the end:\n{again.screen}"
    return f"these differ: {', '.join(map(str, different))}\n{again.screen}" if different else ""


def phase_of(screen: str) -> str:
    """What the run was doing when its screen ended like this."""
    last = max(PHASES, key=screen.rfind)
    return PHASES[last] if last in screen else "starting"
