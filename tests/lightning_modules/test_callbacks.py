"""Callbacks: words about rewards, progress lines, what happens between steps."""

import logging
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.callbacks import EveryNSteps, FitProgress, RewardHealth
from lightning_modules.callbacks.progress import describe, duration
from lightning_modules.callbacks.reward_health import diagnose
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO
from tests.lightning_modules.tiny_steps import OPTIM, NewPolicy, fit, pair_batch, step_batch

HEALTHY = {"rewards/chosen": 0.2, "rewards/margins": 0.6, "rewards/accuracies": 0.8, "chosen_falls": 0.3}


@pytest.mark.parametrize(
    ("change", "step", "expected"),
    [
        ({}, 90, []),
        ({"rewards/chosen": -0.6, "chosen_falls": 0.9}, 30, ["chosen_falls"]),
        ({"rewards/chosen": -0.6, "chosen_falls": 0.5}, 30, []),
        ({"rewards/margins": 7.0, "rewards/accuracies": 1.0}, 30, ["saturated"]),
        ({"rewards/margins": 0.0001}, 60, ["no_signal"]),
        ({"rewards/margins": 0.0001}, 40, []),  # too early to say
        ({"rewards/margins": -0.3, "rewards/accuracies": 0.2}, 60, ["wrong_way"]),
    ],
)
def test_diagnoses(change: dict[str, float], step: int, expected: list[str]) -> None:
    found = diagnose({**HEALTHY, **change}, step, 100)
    assert [name for name, _ in found] == expected
    assert all("optim.lr" in sentence for _, sentence in found)


def test_a_falling_chosen_answer_is_said_once_naming_the_knobs(
    new_policy: NewPolicy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = new_policy()
    health = RewardHealth(total_steps=12, window=2)

    class Unlearning(DPO):
        """Pushes both answers down."""

        def losses(self, policy, reference, lengths):  # type: ignore[no-untyped-def]
            return policy.sum(1), {}

    module = DPOModule(
        policy, Unlearning(0.1), {**OPTIM, "scheduler": "constant"}, reference_mode="live", total_steps=12
    )
    with caplog.at_level(logging.WARNING):
        fit(module, [step_batch(policy, range(4), 4)] * 12, tmp_path, callbacks=[health])
    assert list(health.warnings) == ["chosen_falls"]
    assert "loss=stic" in health.warnings["chosen_falls"] and "loss.beta" in health.warnings["chosen_falls"]
    assert caplog.text.count("The chosen answers are becoming less likely") == 1


def test_identical_answers_are_noticed(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    step = step_batch(policy, range(8), 8)
    same = pair_batch(policy, range(8))
    ids, lengths = same.scoring.response_ids, same.scoring.response_lengths
    ids[:2, 1], lengths[:2, 1] = ids[:2, 0], lengths[:2, 0]  # two pairs with twice the same answer
    same.lengths = lengths
    step.micro_batches = [same]
    health = RewardHealth(total_steps=1)
    module = DPOModule(policy, DPO(0.1), OPTIM, reference_mode="live", total_steps=1)
    fit(module, [step], tmp_path, callbacks=[health])
    assert "2 of 8 pairs" in health.warnings["identical_answers"]
    assert "pairs.drop_equal" in health.warnings["identical_answers"]


def test_warnings_survive_a_resume() -> None:
    before, after = RewardHealth(10), RewardHealth(10)
    before.warnings["saturated"] = "Nothing is left."
    after.load_state_dict(before.state_dict())
    assert after.warnings == {"saturated": "Nothing is left."}


def test_without_a_terminal_progress_is_a_line_now_and_then(
    new_policy: NewPolicy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = new_policy()
    module = DPOModule(policy, DPO(0.1), OPTIM, reference_mode="live", total_steps=5)
    with caplog.at_level(logging.INFO, logger="lightning_modules.callbacks.progress"):
        steps = [step_batch(policy, range(2), 2)] * 5
        fit(module, steps, tmp_path, callbacks=[FitProgress("align", 5, every_n_steps=2, terminal=False)])
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("progress")]
    assert [line.split(",")[0] for line in lines] == [f"align: step {n} of 5" for n in (1, 2, 4, 5)]
    assert "loss 0.6931, margin +0.000" in lines[0] and lines[-1].endswith("0 s left")


def test_on_a_terminal_progress_is_a_bar(
    new_policy: NewPolicy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = new_policy()
    module = DPOModule(policy, DPO(0.1), OPTIM, reference_mode="live", total_steps=2)
    fit(module, [step_batch(policy, range(2), 2)] * 2, tmp_path, callbacks=[FitProgress("align", 2, terminal=True)])
    shown = capfd.readouterr().err
    assert "align" in shown and "2/2" in shown and "loss" in shown


def test_numbers_for_people() -> None:
    assert describe({"train/loss": 0.5, "train/rewards/accuracies": 0.75}) == "loss 0.5000, accuracy 75%"
    assert [duration(s) for s in (45, 720, 12600)] == ["45 s", "12 min", "3.5 h"]


def test_something_can_be_done_every_few_steps_with_the_network_in_evaluation_mode(
    new_policy: NewPolicy, tmp_path: Path
) -> None:
    policy = new_policy()
    seen: list[tuple[int, bool]] = []

    def act(step: int) -> dict[str, float]:
        seen.append((step, policy.model.training))
        return {"eval/step": float(step)}

    every = EveryNSteps(2, act)
    module = DPOModule(policy, DPO(0.1), OPTIM, reference_mode="live", total_steps=6)
    plain_policy = new_policy()
    plain = DPOModule(plain_policy, DPO(0.1), OPTIM, reference_mode="live", total_steps=6)
    steps: list[Any] = [step_batch(policy, range(2), 2)] * 6
    with_it = fit(module, steps, tmp_path, callbacks=[every])
    assert seen == [(2, False), (4, False)]  # not after the last step
    assert every.history == {2: {"eval/step": 2.0}, 4: {"eval/step": 4.0}}
    assert with_it == fit(plain, steps, tmp_path)
    with pytest.raises(ValueError, match=r"evaluation\.every_n_steps=0"):
        EveryNSteps(0, act)
