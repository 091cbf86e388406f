"""Callbacks: words about rewards, progress lines, what happens between steps."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.callbacks import EveryNSteps, FitProgress, RewardHealth
from lightning_modules.callbacks.progress import describe, duration
from lightning_modules.callbacks.reward_health import diagnose
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO, Objective
from tests.lightning_modules.tiny_steps import OPTIM, NewPolicy, fit, pair_batch, step_batch

HEALTHY = {"rewards/chosen": 0.2, "rewards/margins": 0.6, "rewards/accuracies": 0.8, "likelihood_displacement": 0.3}


@pytest.mark.parametrize(
    ("change", "step", "expected"),
    [
        ({}, 90, []),
        ({"rewards/chosen": -0.6, "likelihood_displacement": 0.9}, 30, ["likelihood_displacement"]),
        ({"rewards/chosen": -0.6, "likelihood_displacement": 0.5}, 30, []),
        ({"rewards/margins": 7.0, "rewards/accuracies": 1.0}, 30, ["saturated"]),
        ({"rewards/margins": 0.0001}, 60, ["no_signal"]),
        ({"rewards/margins": 0.0001}, 40, []),  # too early to say
        ({"nats_per_token": 1.4}, 30, ["far_from_reference"]),
        ({"gradient_growth": 30.0}, 30, ["gradient_explodes"]),
        ({"rewards/margins": -0.3, "rewards/accuracies": 0.2}, 60, ["wrong_way"]),
    ],
)
def test_diagnoses(change: dict[str, float], step: int, expected: list[str]) -> None:
    found = diagnose({**HEALTHY, **change}, step, 100)
    assert [name for name, _ in found] == expected
    assert all("optim.lr" in sentence for _, sentence in found)


def test_rewards_without_a_reference_are_looked_at_as_far_as_they_go() -> None:
    without = {name: value for name, value in HEALTHY.items() if name != "likelihood_displacement"}
    assert diagnose({**without, "rewards/chosen": -6.0}, 90, 100) == []
    assert [name for name, _ in diagnose({**without, "rewards/accuracies": 1.0, "rewards/margins": 9.0}, 90, 100)] == [
        "saturated"
    ]


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
        policy, Unlearning(0.1), replace(OPTIM, scheduler="constant"), reference_mode="live", total_steps=12
    )
    with caplog.at_level(logging.WARNING):
        fit(module, [step_batch(policy, range(4), 4)] * 12, tmp_path, callbacks=[health])
    assert list(health.warnings) == ["likelihood_displacement"]
    assert (
        "loss=stic" in health.warnings["likelihood_displacement"]
        and "loss.beta" in health.warnings["likelihood_displacement"]
    )
    assert caplog.text.count("The chosen answers are becoming less likely") == 1


def test_an_objective_without_a_reference_that_reports_rewards_is_watched_too(
    new_policy: NewPolicy, tmp_path: Path
) -> None:
    """It reports no likelihood displacement, and may report a margin alone."""
    policy = new_policy()

    class MarginOnly(Objective):
        needs_reference = False
        beta = 2.0

        def losses(self, policy, reference, lengths):  # type: ignore[no-untyped-def]
            margin = self.beta * (policy[:, 0] / lengths[:, 0] - policy[:, 1] / lengths[:, 1])
            return -margin, {"rewards/margins": margin * 0}

    health = RewardHealth(total_steps=6, window=2)
    module = DPOModule(policy, MarginOnly(), OPTIM, total_steps=6)
    fit(module, [step_batch(policy, range(4), 4)] * 6, tmp_path, callbacks=[health])
    assert list(health.warnings) == ["no_signal"]


def test_a_loss_that_is_no_objective_is_refused_in_words(new_policy: NewPolicy) -> None:
    with pytest.raises(
        TypeError, match=r"loss is a function, which is no objective; derive it from .*Objective.*`losses`"
    ):
        DPOModule(new_policy(), lambda policy, reference, lengths: None, OPTIM, total_steps=1)  # type: ignore[arg-type]


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


def test_answers_that_grow_while_training_are_noticed(new_policy: NewPolicy, tmp_path: Path) -> None:
    words = {1: 10.0, 2: 12.0, 3: 31.0}
    watch = EveryNSteps(1, lambda step: {"answers/words": words[step], "answers/cut": 0.25})
    policy = new_policy()
    health = RewardHealth(total_steps=4, window=1)
    module = DPOModule(policy, DPO(0.1), OPTIM, reference_mode="live", total_steps=4)
    fit(module, [step_batch(policy, range(2), 2)] * 4, tmp_path, callbacks=[watch, health])
    said = health.warnings["length_explodes"]
    assert "from 10 to 31 words" in said and "25% of them are cut" in said and "pairs.max_chars" in said


def test_distance_from_the_reference_is_worked_out_per_token(new_policy: NewPolicy) -> None:
    """Fed with metrics: rewards are β times nats per answer, so the same rewards are far or near by β and by length."""
    step = step_batch(new_policy(), range(4), 4)
    tokens = sum(int(m.lengths.sum()) for m in step.micro_batches) / 4  # of chosen and rejected together, per pair
    rewards = {"rewards/chosen": -0.1 * tokens, "rewards/rejected": -0.1 * tokens, "rewards/margins": 0.0}
    fed = {f"train/{name}": value for name, value in {**HEALTHY, **rewards, "grad_norm": 1.0}.items()}
    for beta, expected in ((0.1, True), (1.0, False)):
        health = RewardHealth(total_steps=30, window=1)
        module = SimpleNamespace(last_metrics=fed, beta=beta)
        health.on_train_batch_end(SimpleNamespace(global_step=3, callbacks=[]), module, None, step)  # type: ignore[arg-type]
        assert ("far_from_reference" in health.warnings) is expected
        if expected:
            assert "2.0 nats per token" in health.warnings["far_from_reference"]
        module.last_metrics = {**fed, "train/grad_norm": 25.0}
        health.on_train_batch_end(SimpleNamespace(global_step=4, callbacks=[]), module, None, step)  # type: ignore[arg-type]
        assert "25 times" in health.warnings["gradient_explodes"]
