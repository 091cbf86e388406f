"""What the command line becomes before Hydra sees it."""

from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from parallax.settings.command_line import as_typed, complain, hydra_sentence, prepare
from parallax.settings.comments import CONF
from parallax.settings.errors import ConfigError


def prepared(*arguments: str) -> list[str]:
    return prepare([*arguments, "--cfg", "job"], CONF)[2:]


def problems_of(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        prepare(list(arguments), CONF)
    return caught.value.problems


@pytest.mark.parametrize(
    ("variable", "value", "own"), [("RANK", "0", True), ("RANK", "3", False), ("SLURM_PROCID", "1", False)]
)
def test_processes_after_the_first_make_no_run_folder_of_their_own(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, own: bool
) -> None:
    monkeypatch.setenv(variable, value)
    given = prepare(["trainer=ddp", "trainer.devices=4"], CONF)
    assert ("hydra.output_subdir=null" in given) != own
    named = prepare(["trainer=ddp", "hydra.run.dir=out"], CONF)
    assert not any(word == "hydra.run.dir=." for word in named)


def test_values_are_forced_in_and_choices_of_groups_are_left_alone() -> None:
    typed = ["method=seva", "loss.beta=0.2", "+tags=[a]", "++seed=3", "aug=diffusion"]
    assert prepared(*typed) == ["method=seva", "++loss.beta=0.2", "++tags=[a]", "++seed=3", "aug=diffusion"]


def test_options_come_first_wherever_they_were_typed() -> None:
    assert prepare(["seed=1", "--cfg", "job", "loss.beta=0.2"], CONF) == ["--cfg", "job", "++seed=1", "++loss.beta=0.2"]


def test_a_choice_for_one_stage_becomes_hydras_long_form() -> None:
    assert prepared("stages.align.loss=stic") == ["+loss@stages.align.loss=stic"]
    assert prepared("aug@evaluation.view=diffusion") == ["aug@evaluation.view=diffusion"]
    assert prepared("loss@stages.align.loss=stic") == ["+loss@stages.align.loss=stic"]


def test_none_as_sweeps_write_it_means_null() -> None:
    assert prepared("pairs.max_pairs=None") == ["++pairs.max_pairs=null"]


def test_no_experiment_can_be_said() -> None:
    assert prepared("experiment=null") == []


def test_hydras_own_keys_pass_as_they_are() -> None:
    assert prepared("hydra.job.name=x", "hydra/job_logging=disabled") == [
        "hydra.job.name=x",
        "hydra/job_logging=disabled",
    ]


def test_overrides_can_be_shown_as_they_were_typed() -> None:
    assert as_typed(["++loss.beta=0.2", "+loss@stages.align.loss=stic", "method=seva"]) == [
        "loss.beta=0.2", "stages.align.loss=stic", "method=seva",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["seva"], "seva has no group in front: write method=seva."),
        (["mthod"], "mthod is not of the form key=value. Did you mean method=…?"),
        (["--loss.beta=1"], "--loss.beta=1 has dashes in front: write loss.beta=1."),
        (["--multirn"], "There is no option --multirn. Did you mean --multirun"),
        (["loss=stic,dpo"], "add -m for one run each, or write loss=[stic,dpo] for a list"),
        (["tags=[a"], "tags=[a cannot be read"),
        (["data.path=a b=c(d"], "cannot be read"),
        (["~loss.betta"], "loss.betta"),
        (["--cfg", "job", "~optm"], "optm"),
    ],
)
def test_what_cannot_be_read_is_told_in_words(typed: list[str], sentence: str) -> None:
    (problem,) = problems_of(*typed)
    assert sentence in problem and "\n" not in problem


def test_every_job_of_a_multirun_is_checked_before_the_first_one_starts() -> None:
    (problem,) = problems_of("-m", "loss.beta=0.1,-1", "seed=0,1")
    assert "loss.beta=-1 is not allowed" in problem and "(job with loss.beta=-1 seed=0)" in problem
    (problem,) = problems_of("-m", "method=seva,sevva")
    assert problem.startswith("method=sevva is no choice of method")
    assert any(
        "pairs.num_negatives=3 does not go" in p for p in problems_of("-m", "loss=dpo,stic", "pairs.num_negatives=1,3")
    )


def test_a_folder_of_ones_own_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text("_target_: lightning_modules.objectives.DPO\nbeta: 0.5\n")
    arguments = ["--config-dir", str(tmp_path), "loss=mine", "--cfg", "job"]
    assert prepare(arguments, CONF) == ["--config-dir", str(tmp_path), "--cfg", "job", "loss=mine"]
    (problem,) = problems_of("--config-dir", str(tmp_path), "loss=min")
    assert "Did you mean mine" in problem


def test_hydras_words_are_cut_to_the_sentence() -> None:
    error = ValueError("Could not find 'x/y'\n\nAvailable options in 'x':\n\ta\n\tb\nConfig search path:\n\tfile:///z")
    assert hydra_sentence(error) == "Could not find 'x/y'."


def test_a_part_that_refuses_its_arguments_is_heard_and_a_broken_one_keeps_its_trace() -> None:
    with pytest.raises(InstantiationException) as refused:
        instantiate({"_target_": "datamodules.shapes.source.ShapesSource", "split": "pairs_habit_free", "size": -1})
    assert hydra_sentence(refused.value) == "a source of -1 samples cannot be; give 0 or more."
    with pytest.raises(InstantiationException) as broken:
        instantiate({"_target_": "datamodules.shapes.source.ShapesSource", "split": "pairs_habit_free", "size": None})
    with pytest.raises(InstantiationException):
        complain(broken.value)


def test_problems_are_printed_one_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain(ConfigError(["one is wrong.", "two is wrong."]))
    complain(ConfigError("only this."))
    assert capsys.readouterr().err.splitlines() == [
        "The configuration has 2 problems:", "  - one is wrong.", "  - two is wrong.",
        "The configuration has a problem:", "  - only this.",
    ]  # fmt: skip
