"""The command line before Hydra starts: what is refused, in which words, and how the rest is read. It reaches Hydra as typed."""

from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from parallax.settings.command_line import complain, compose_checked, hydra_sentence, prepare
from parallax.settings.comments import CONF
from parallax.settings.errors import ConfigError


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


@pytest.mark.parametrize(
    "words",
    [
        ["method=seva", "loss.beta=0.2", "++tags=[a]", "stages.align.optim.lr=1e-6", "aug=diffusion"],
        ["stages.align.loss=stic", "stages.align.loss.alpha=0.01", "aug@evaluation.view=diffusion"],
        ["loss@stages.align.loss=stic"],
        ["pairs.max_pairs=None"],
        ["experiment=null"],
        ["+experiment=quick"],
        ["hydra.job.name=x", "hydra/job_logging=disabled", "~logger.wandb"],
        ["seed=1", "--cfg", "job", "loss.beta=0.2"],
    ],
)
def test_the_words_reach_hydra_as_they_were_typed(words: list[str]) -> None:
    assert prepare(words, CONF, complete=False) == words


def test_keys_that_no_file_holds_and_choices_for_one_stage_are_read() -> None:
    cfg = compose_checked(["stages.align.loss=stic", "stages.align.loss.alpha=0.01", "stages.align.optim.lr=1e-6"])
    loss = cfg.stages.align.loss
    assert (loss["_target_"].rsplit(".", 1)[1], loss.alpha) == ("Stic", 0.01) and cfg.stages.align.optim.lr == 1e-6
    assert compose_checked(["aug@evaluation.view=random_flip"]).evaluation.view._target_.endswith("RandomFlip")
    assert compose_checked(["pairs.max_pairs=None"]).pairs.max_pairs is None
    assert compose_checked(["experiment=null"]) == compose_checked([])
    assert compose_checked(["+experiment=quick"]) == compose_checked(["experiment=quick"]) != compose_checked([])


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
        (["method=SeVa"], "method=SeVa is no choice of method. Did you mean seva?"),
        (["experiment=seva"], "Did you mean tune_seva, seva_evidence or seva_llava15_13b? (method=seva exists.)"),
        (["+loss=stic"], "+loss=stic adds a choice of loss, and there is one already: write loss=stic."),
        (["++loss=stic"], "a choice is not forced in: write loss=stic."),
        (["+loss.beta=0.2"], "An item is already at 'loss.beta'."),
        (["stages.align.loss=stik"], "stages.align.loss=stik is no choice of loss. Did you mean stic"),
        (["--experimental-rerun", "config.pickle"], "reads a pickled file, which may run any code"),
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
    assert prepare(arguments, CONF) == arguments
    (problem,) = problems_of("--config-dir", str(tmp_path), "loss=min")
    assert "Did you mean mine" in problem


def test_hydras_words_are_cut_to_the_sentence() -> None:
    error = ValueError("Could not find 'x/y'\n\nAvailable options in 'x':\n\ta\n\tb\nConfig search path:\n\tfile:///z")
    assert hydra_sentence(error) == "Could not find 'x/y'."


def test_a_part_that_refuses_its_arguments_is_heard_and_a_broken_one_keeps_its_trace() -> None:
    with pytest.raises(InstantiationException) as refused:
        instantiate({"_target_": "datamodules.shapes.source.ShapesSource", "split": "pairs_habit_free", "size": -1})
    assert hydra_sentence(refused.value) == "ShapesSource: size=-1 is not allowed: it must be an integer of 1 or more."
    with pytest.raises(InstantiationException) as broken:
        instantiate({"_target_": "datamodules.shapes.source.ShapesSource", "split": "pairs_habit_free"})
    with pytest.raises(InstantiationException):
        complain(broken.value)


def test_problems_are_printed_one_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain(ConfigError(["one is wrong.", "two is wrong."]))
    complain(ConfigError("only this."))
    assert capsys.readouterr().err.splitlines() == [
        "The configuration has 2 problems:", "  - one is wrong.", "  - two is wrong.",
        "The configuration has a problem:", "  - only this.",
    ]  # fmt: skip


def test_what_can_be_known_without_a_model_is_refused_before_one_is_loaded(tmp_path: Path) -> None:
    (problem,) = problems_of("task=gallery", "run=nothere")
    assert problem.startswith("run=nothere is not there (looked from ")
    (problem,) = problems_of("task=compare", f"runs=[{tmp_path},{tmp_path}/gone/*]")
    assert f"{tmp_path}/gone/* is not there" in problem
    (problem,) = problems_of("task=compare", f"runs={tmp_path}")
    assert "holds no run" in problem
    (problem,) = problems_of("task=export_pairs", f"task.pairs={tmp_path}")
    assert "neither a pair set nor a run folder" in problem
    (tmp_path / "photo.jpg").touch()
    for method in ("gt_dpo", "spin"):
        (problem,) = problems_of(f"method={method}", "data=image_folder", f"data.path={tmp_path}")
        assert "images alone have none" in problem
