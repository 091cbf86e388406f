"""A wrong configuration is refused in sentences: the key, the value, what is allowed, what to do."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from parallax.settings.check import check, find_problems
from parallax.settings.command_line import prepare
from parallax.settings.comments import CONF
from parallax.settings.errors import ConfigError
from parallax.settings.schema import group_keys, root

Compose = Callable[..., DictConfig]


def problems_of(*arguments: str) -> list[str]:
    """What `python run.py <arguments>` complains about, the files and folders it needs aside."""
    try:
        prepare([*arguments, "--cfg", "job"], CONF)
    except ConfigError as error:
        return error.problems
    return []


UNKNOWN = [
    ("los.beta=1", "loss.beta"),
    ("loss.beat=1", "loss.beta"),
    ("aug.noise_stps=500", "aug.noise_steps"),
    ("noise_steps=500", "aug.noise_steps"),
    ("optim.learning_rate=1", "optim.lr"),
    ("pairs.num_negative=2", "pairs.num_negatives"),
    ("metod=seva", "method"),
    ("trainer.epochs=3", "trainer.max_epochs"),
    ("stages.align.optim.lrr=1", "stages.align.optim.lr"),
    ("stages.align.los.beta=1", "stages.align.loss.beta"),
    ("evaluation.suites.chair.conting=x", "evaluation.suites.chair.counting"),
    ("stages.align.selector.drop_equals=false", "stages.align.selector.drop_equal"),
    ("evaluation.scene=100", "evaluation.scenes"),
    ("logger.wandb.projct=x", "logger.wandb.project"),
]


@pytest.mark.parametrize(("typed", "meant"), UNKNOWN)
def test_a_mistyped_key_names_the_closest_valid_one(typed: str, meant: str) -> None:
    (problem,) = problems_of(typed)
    assert problem.startswith(f"There is no key {typed.split('=')[0]} ")
    assert meant in problem.split("Did you mean")[1]


@pytest.mark.parametrize("typed", ["evaluation.scenes=0", "evaluation.pope_scenes=many", "evaluation.split=nowhere"])
def test_a_key_for_others_to_take_their_value_from_is_held_to_what_they_take(typed: str) -> None:
    (problem,) = problems_of(typed)
    assert problem.startswith(f"{typed} is not allowed: it must be ")


CHOICE = [
    ("method=sevva", "seva"),
    ("model=llava15_7B", "llava15_7b"),
    ("aug=difusion", "diffusion"),
    ("experiment=seva_llava15", "seva_llava15_7b"),
    ("evaluation=[shapes,poep]", "pope"),
    ("stages.align.loss=dpoo", "dpo"),
]


@pytest.mark.parametrize(("typed", "meant"), CHOICE)
def test_a_mistyped_choice_names_the_closest_valid_one_and_lists_all(typed: str, meant: str) -> None:
    (problem,) = problems_of(typed)
    assert "Did you mean" in problem and "Choices are:" in problem
    assert meant in problem.split("Did you mean")[1].split("?")[0]


OUTSIDE = [
    ("aug.noise_steps=1500", "an integer from 0 to 999"),
    ("aug.noise_steps=-1", "an integer from 0 to 999"),
    ("aug.noise_steps=1.5", "an integer from 0 to 999"),
    ("loss.beta=-1", "a number above 0"),
    ("loss.beta=0", "a number above 0"),
    ("loss.beta=abc", "a number above 0"),
    ("loss.beta=true", "a number above 0"),
    ("loss.beta=.inf", "a number above 0"),
    ("loss.label_smoothing=0.5", "a number of 0 or more and below 0.5"),
    ("lora.r=0", "an integer from 1 to 65536"),
    ("lora.dropout=1.0", "a number of 0 or more and below 1"),
    ("optim.lr=0", "a number above 0 and at most 1"),
    ("optim.betas=[0.9]", "a list of 2 items, each a number of 0 or more and below 1"),
    ("optim.scheduler=cosin", "one of cosine, linear, constant"),
    ("pairs.refresh=0_steps", "one of never, epoch, <n>_steps"),
    ("pairs.max_per_source={a: 0}", "an integer of 1 or more, or a mapping"),
    ("trainer.devices=0", "an integer of 1 or more or auto"),
    ("generation.top_p=0", "a number above 0 and at most 1"),
    ("evaluation.when=[during]", "a list, each one of before, after_round, after"),
    ("model.image_pad=1", "true or false"),
    ("method=7", "is no choice of method"),
    ("optim=3", "is no choice of optim"),
    ("seed=-1", "an integer from 0 to 4294967295"),
    ("tags=word", "a list, each a text"),
    ("export.push_to_hub=name", "owner/name"),
    ("stages.align.loss.beta=-1", "a number above 0"),
    ("stages.align.optim.lr=2", "a number above 0 and at most 1"),
    ("evaluation.suites.chair.max_new_tokens=0", "an integer of 1 or more"),
    ("trainer.max_time=tomorrow", "a time as DD:HH:MM:SS"),
]


@pytest.mark.parametrize(("typed", "allowed"), OUTSIDE)
def test_a_value_out_of_range_is_refused_with_the_key_the_value_and_what_is_allowed(typed: str, allowed: str) -> None:
    (problem,) = problems_of(typed)
    key = typed.split("=")[0]
    assert problem.startswith(f"{key}=") and allowed in problem


def test_a_refused_value_comes_with_the_meaning_of_its_key() -> None:
    (problem,) = problems_of("aug.noise_steps=1500")
    assert "schedule of 1000" in problem


def test_all_problems_are_told_at_once_and_each_once() -> None:
    typed = ["loss.beta=-1", "aug.noise_steps=1500", "lora.r=0", "los.beta=1", "generation.max_new_tokens=0"]
    problems = problems_of(*typed)
    assert len(problems) == len(typed)
    assert all(sum(one.split("=")[0] in problem for problem in problems) >= 1 for one in typed)


def test_a_wrong_value_that_other_keys_take_over_is_blamed_on_its_own_key() -> None:
    (problem,) = problems_of("model.recipe.lr=-1")
    assert problem.startswith("model.recipe.lr=-1")


COMBINATIONS = [
    (["pairs.num_negatives=3"], "pairs.num_negatives=3 does not go with DPO", "loss=multi_negative"),
    (["pairs.num_negatives=3", "loss=ipo"], "IPO", "loss=multi_negative"),
    (["pairs.num_negatives=3", "loss=mdpo", "loss.side=rejected"], "MDPO", "pairs.num_negatives=1"),
    (["pairs.num_negatives=3", "loss=symmpo"], "SymMPO", "pairs.num_negatives=1"),
    (["pairs.num_negatives=3", "loss=hinge"], "Hinge", "pairs.num_negatives=1"),
    (["pairs.num_negatives=3", "loss=weighted"], "DPO", "loss=multi_negative"),
    (["method=seva_multi", "aug=several", "pairs.num_negatives=5"], "aug.views has 4 views", "pairs.num_negatives=4"),
    (["lora=none", "pairs.refresh=epoch"], "lora=none", "reference=live"),
    (["lora=none", "lora.r=8"], "lora.r=8", "Leave one of the two out"),
    (["method=seva_multi", "pairs.control=swapped"], "pairs.control=swapped", "pairs.num_negatives=1"),
    (["judge=clip_calibrated"], "scores sentence trees, and this method makes none", "method=csr"),
    (["method=csr", "judge=self_critic"], "SelfCritic cannot score the leaves", "judge=clip_calibrated"),
    (["method=csr", "judge=by_construction"], "ByConstruction cannot score the leaves", "judge=clip_calibrated"),
    (["method=sima", "judge=by_construction"], "knows no better one among samples", "judge=self_critic"),
    (["method=csr", "judge.image_text=null"], "judge.image_weight=0.9 needs judge.image_text", "judge.image_weight=0"),
    (["method=csr", "stages.align.proposer.prune_from=2"], "prune_from=2 is less than keep_top", "Raise prune_from"),
    (["model.quantization=nf4", "lora=none"], "cannot be trained, and lora=none trains them", "Use LoRA"),
    (["model.quantization=nf4", "trainer=fsdp2"], "cannot divide over processes", "trainer=ddp"),
    (["model.quantization=int8", "trainer.precision=64-true"], "converts all weights", "trainer.precision=auto"),
    (["model.quantization=int8", "export.merged=true"], "merged into whole weights", "task=merge"),
    (["trainer=fsdp", "trainer.precision=64-true"], "not known to Lightning's FSDP", "trainer=fsdp2"),
    (["trainer=fsdp", "model.quantization=int8"], "cannot divide over processes", "trainer=ddp"),
    (["trainer=fsdp2", "lora=none", "reference=live"], "a second copy of all weights", "reference=cached"),
    (["trainer=cpu", "trainer.precision=16-mixed"], "16-mixed needs a GPU", "bf16-mixed"),
    (["trainer=cpu", "model.dtype=float16"], "float16 needs a GPU", "model.dtype=auto"),
    (["trainer=cpu", "model.attention=flash_attention_2"], "flash_attention_2 needs a GPU", "model.attention=auto"),
    (["model.attention=flash_attention_2", "model.dtype=float32"], "model.dtype=float32", "bfloat16"),
    (["trainer.devices=8", "trainer.batch_size=4"], "cannot be shared by 8 processes", "trainer.batch_size=8"),
    (["trainer.max_steps=0"], "trainer.max_steps=0", "-1 for no limit"),
    (["data=preference_file"], "holds ready-made pairs", "method=dpo_file"),
    (["method=dpo_file", "data=shapes"], "takes ready-made pairs", "data=preference_file"),
    (["method=dpo_file", "pairs.refresh=epoch"], "pairs.refresh=epoch", "pairs.refresh=never"),
    (["generation.top_p=0.9"], "generation.top_p=0.9 does nothing", "temperature above 0"),
    (["pairs.min_chars=9", "pairs.max_chars=3"], "pairs.min_chars=9 is more than pairs.max_chars=3", "swap"),
    (["model.min_pixels=9", "model.max_pixels=3"], "model.min_pixels=9 is more than", "swap"),
    (["logger.wandb.log_model=true", "logger.wandb.mode=offline"], "uploads nothing", "mode=online"),
    (["evaluation=none", "evaluation.every_n_steps=5"], "nothing to evaluate", "evaluation=shapes"),
    (["task=evaluate", "evaluation=none"], "nothing to evaluate", "evaluation=shapes"),
    (["evaluation.describe_and_respond=true", "evaluation.describe_template=x"], "lacks a place", "{question}"),
    (["method.stages=[algn]"], "no such stage; it has: align", ""),
    (["stages.algn.loss.beta=1"], "has no stage algn; its stages are: align", ""),
    (["method=stic", "++stages.infuse.lora.r=4"], "all stages train the same adapter", "Set lora for all"),
    (["method=spin", "lora=none", "reference.source=initial"], "reference.source=initial needs", "previous_stage"),
    (["pairs.rejected_scorer=argmax_not_label"], "keeps log-probs of given tokens", "reference=live"),
    (["pairs.rejected_scorer=argmax", "loss=nll"], "does nothing sensible with NLL", "rejected_scorer=label"),
    (["loss=povid", "reference=live"], "stages.align.noise names no view", "method=povid"),
    (["method=povid", "stages.noise.reference.mode=cached"], "chooses as it trains", "reference=live"),
    (["method=povid", "++stages.noise.pairs.num_negatives=2"], "takes one rejected text", "pairs.num_negatives=1"),
    (["method=povid", "++stages.align.noise=${aug}"], "no loss looks at it", "loss=povid"),
    (["++stages.align.share=0.5"], "belongs to supervised stages", "fit=supervised"),
    (["method=gt_dpo", "stages.align.fit=supervised"], "are the data's own", "proposer=null"),
    (["stages.align.pairs.num_negatives=2"], "pairs.num_negatives=2 does not go with DPO", "multi_negative"),
]


DEEPSPEED = [
    (["trainer=deepspeed", "trainer.accelerator=cpu"], "Lightning runs on GPUs only", "trainer=fsdp2"),
    (["trainer=deepspeed", "trainer.precision=64-true"], "not known to DeepSpeed", "precision=auto"),
    (
        ["trainer=deepspeed", "trainer.deepspeed.stage=2", "trainer.deepspeed.offload_parameters=true"],
        "needs sharded weights",
        "trainer.deepspeed.stage=3",
    ),
    (["trainer=deepspeed", "lora=none", "reference=live"], "a second copy of all weights", "reference=cached"),
    (["trainer=deepspeed", "optim=adamw_8bit"], "sharded over processes already", "optim=adamw"),
]


@pytest.mark.parametrize(("typed", "reason", "way_out"), DEEPSPEED, ids=lambda value: " ".join(value))
def test_what_deepspeed_is_not_asked_for_is_refused_whether_it_is_installed_or_not(
    typed: list[str], reason: str, way_out: str
) -> None:
    missing = [words for words in problems_of(*typed) if "pip install 'deepspeed" in words]
    (problem,) = set(problems_of(*typed)) - set(missing)
    assert reason in problem and way_out in problem
    assert len(missing) == (find_spec("deepspeed") is None)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_moments_of_bitsandbytes_go_with_whole_weights_only(optim: str) -> None:
    for trainer in ("cpu", "ddp"):
        assert not problems_of(f"trainer={trainer}", f"optim={optim}")
    for trainer in ("fsdp", "fsdp2"):
        (problem,) = problems_of(f"trainer={trainer}", f"optim={optim}")
        assert f"optim.name={optim} does not go with trainer.strategy={trainer}" in problem and "optim=adamw" in problem
        assert not problems_of(f"trainer={trainer}", "optim=adamw", "lora=none")


def test_processes_that_share_weights_cannot_try_micro_batches() -> None:
    problems = problems_of("trainer=fsdp2", "trainer.find_batch_size=true")
    assert any(
        "trainer.find_batch_size=true does not go with trainer.strategy=fsdp2" in problem for problem in problems
    )
    assert not problems_of("trainer.find_batch_size=true")


@pytest.mark.parametrize(("typed", "reason", "way_out"), COMBINATIONS, ids=lambda value: " ".join(value))
def test_a_forbidden_combination_is_refused_with_the_reason_and_the_way_out(
    typed: list[str], reason: str, way_out: str
) -> None:
    (problem,) = problems_of(*typed)
    assert reason in problem and way_out in problem


def test_a_critics_prompt_file_that_is_not_there_is_named(tmp_path: Path, compose_config: Compose) -> None:
    problems = find_problems(compose_config("method=sima", "judge.prompt=critic_ful"))
    assert list(problems) == ["judge.prompt"] and "critic_full, critic_short" in problems["judge.prompt"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("item: x")
    assert find_problems(compose_config("method=sima", f"judge.prompt={mine}")) == {}


def test_an_image_text_model_that_is_not_there_is_named_where_it_is_needed(
    tmp_path: Path, compose_config: Compose
) -> None:
    where = f"judge.image_text.path={tmp_path}"
    problems = find_problems(compose_config("method=csr", where))
    assert list(problems) == ["judge.image_text.path"] and "no config.json" in problems["judge.image_text.path"]
    assert find_problems(compose_config("method=self_rewarding", where)) == {}
    assert find_problems(compose_config("method=csr", "judge.image_text.path=openai/clip-vit-large-patch14-336")) == {}


def test_combinations_that_only_look_forbidden_are_allowed() -> None:
    assert problems_of("method=self_rewarding", "judge.image_text=null") == []
    assert problems_of("method=csr", "pairs.num_negatives=3", "loss=multi_negative") == []
    assert problems_of("loss=stic", "pairs.num_negatives=4") == []
    assert problems_of("loss=multi_negative") == []
    assert problems_of("lora=none", "reference=live", "pairs.refresh=epoch") == []
    assert problems_of("lora=none") == []
    assert problems_of("reference.source=previous_round") == []
    assert problems_of("pairs.rejected_scorer=argmax", "reference=live") == []
    assert problems_of("model.train_projector=true", "reference=live") == []
    assert problems_of("trainer.micro_batch_size=64", "trainer.batch_size=8") == []


CODE = [
    ("data._target_=os.system", "may be named"),
    ("loss._target_=builtins.eval", "may be named"),
    ("judge._target_=parallax.preference.judges.by_construction.ByConstructon", "did you mean ByConstruction?"),
    ("aug._target_=augment.difusion.Diffusion", "there is no module augment.difusion"),
    ("evaluation.suites.chair.extract.path=subprocess.run", "may be named"),
    ("evaluation.suites.chair.extract.path=datamodules.shapes.language.mentioned", "did you mean mentioned_objects?"),
    ("loss._target_=lightning_modules.objectives.base._at_least_float32", "no dotted path of public names"),
]


@pytest.mark.parametrize(("typed", "reason"), CODE)
def test_only_code_of_ours_that_exists_can_be_named(typed: str, reason: str) -> None:
    assert any(reason in problem for problem in problems_of(typed))


def test_views_inside_a_view_are_checked_like_any_other() -> None:
    (problem,) = problems_of("aug=mixture", "aug.views=[{name: diffusion, noise_steps: 2000}]")
    assert problem.startswith("aug.views.0.noise_steps=2000") and "from 0 to 999" in problem
    (problem,) = problems_of("aug=mixture", "aug.views=[difusion]")
    assert "names no view" in problem and "Did you mean diffusion?" in problem
    (problem,) = problems_of("aug=chain", "aug.views=[{name: random_flip, q: 1}]")
    assert "RandomFlip has none; it takes p, images" in problem
    (problem,) = problems_of("aug=several", "aug.views=[]")
    assert problem.startswith("aug.views=[] is not allowed: it must be a list of 1 or more")


def test_objectives_inside_an_objective_are_checked_like_any_other() -> None:
    node = "{weight: 1, objective: {_target_: lightning_modules.objectives.DPO, beta: -2}}"
    (problem,) = problems_of("loss=weighted", f"loss.terms=[{node}]")
    assert problem.startswith("loss.terms.0.objective.beta=-2")


def test_what_must_be_given_is_asked_for_with_its_meaning(compose_config: Compose) -> None:
    problems = find_problems(compose_config("data=llava_json"))
    assert set(problems) >= {"data.path", "data.image_root"}
    assert "the JSON (or JSONL) file" in problems["data.path"] and "data.path=…" in problems["data.path"]
    problems = find_problems(compose_config("task=merge"))
    assert "adapter=<folder>" in problems["adapter"]


def test_files_and_folders_that_are_not_there_are_named_before_anything_is_loaded(
    compose_config: Compose, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").touch()
    problems = find_problems(
        compose_config(
            "data=llava_json",
            f"data.path={tmp_path}/none.json",
            f"data.image_root={tmp_path}",
            f"model.path={tmp_path}",
            f"adapter={tmp_path}",
            "resume=atuo",
        )
    )
    assert set(problems) == {"data.path", "model.path", "adapter", "resume"}
    assert "does not exist" in problems["data.path"]
    assert "no config.json" in problems["model.path"] and "make_tiny_llava" in problems["model.path"]
    assert "no adapter_config.json" in problems["adapter"]


def test_what_lies_at_a_path_is_looked_at_by_names_alone(compose_config: Compose, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("texts/a.txt", "rows.xlsx", "rows.json", "rows.jsonl.gz", "rows"):
        (tmp_path / name).write_text("x")
    (tmp_path / "none.json").touch()

    def said(data: str, path: str, root: str = "texts") -> str:
        words = [f"data={data}", f"data.path={tmp_path}/{path}", f"data.image_root={tmp_path}/{root}"]
        problems = find_problems(compose_config(*words[: 2 if data == "image_folder" else 3], "evaluation=none"))
        return " ".join(problems.values()).replace(str(tmp_path), "")

    assert said("preference_file", "empty").startswith("data.path=/empty holds no file; files ending in .parquet")
    assert "/texts holds no file" in said("preference_file", "texts")
    assert "rows.xlsx is of no kind that is known" in said("preference_file", "rows.xlsx")
    assert "is an empty file" in said("preference_file", "none.json")
    assert "none*.jsonl matches no file" in said("preference_file", "none*.jsonl")
    assert "/rows.json is no folder" in said("preference_file", "rows.json", "rows.json")
    assert "/texts holds no image; files ending in .jpg" in said("image_folder", "texts")
    assert "/rows.json is no folder" in said("image_folder", "rows.json")
    assert "/texts is a folder; give the file itself" in said("llava_json", "texts")
    assert "data.image_root=/empty holds no file." in said("llava_json", "rows.json", "empty")
    for path in ("rows.json", "rows.jsonl.gz", "rows", "*.json"):
        assert "data.path=" not in said("preference_file", path), path


def test_a_reference_to_a_key_that_is_not_there_is_told_in_one_sentence(compose_config: Compose) -> None:
    problems = find_problems(compose_config("++optim.lr=${modl.recipe.lr}"))
    assert list(problems) == ["optim.lr"] and "modl.recipe.lr" in problems["optim.lr"]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("optim=null", "optim=null leaves the run without optim: choose one of adamw"),
        ("~loss", "loss was taken away; choose one of apo_down"),
        ("~optim.lr", "optim.lr was taken away"),
        ("~trainer.checkpoint.keep", "trainer.checkpoint.keep was taken away"),
        ("trainer.checkpoint=3", "trainer.checkpoint is a group of keys (every_n_steps, keep, sharded)"),
    ],
)
def test_a_group_or_key_that_was_taken_away_is_named(typed: str, sentence: str) -> None:
    assert any(sentence in problem for problem in problems_of(typed))


def test_the_error_holds_every_sentence(compose_config: Compose) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose_config("++loss.beta=-1", "++lora.r=0"), complete=False)
    assert len(caught.value.problems) == 2 and all(problem in str(caught.value) for problem in caught.value.problems)


def test_settings_of_the_models_maker_are_held_to_their_file() -> None:
    (problem,) = problems_of("experiment=make_tiny_llava", "tiny_llava.vision.hiden=3")
    assert "There is no key tiny_llava.vision.hiden" in problem
    (problem,) = problems_of("experiment=make_tiny_llava", "tiny_llava.vision.layers=many")
    assert "must be an integer" in problem


def test_every_numeric_key_refuses_a_value_outside_its_range(compose_config: Compose) -> None:
    """Each bound of the schema, tried from outside."""
    composed = compose_config("evaluation=[shapes,pope]", "logger=[wandb,tensorboard]")
    for key, rule in group_keys(root()).items():
        if rule.kind not in ("integer", "number") or "*" in key or key.split(".")[0] in ("task",):
            continue
        tries = [value for value in (below(rule.low), rule.above, above(rule.high), rule.below) if value is not None]
        for value in tries:
            cfg = composed.copy()
            OmegaConf.update(cfg, key, int(value) if rule.kind == "integer" else float(value), force_add=True)
            assert key in find_problems(cfg, complete=False), f"{key}={value} passed"


def below(bound: float | None) -> float | None:
    return None if bound is None else bound - 1


def above(bound: float | None) -> float | None:
    return None if bound is None else bound + 1


def test_a_stages_own_data_is_asked_for_and_looked_for_where_the_stage_runs(
    compose_config: Compose, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").touch()
    words = ["method=stic", "data=image_folder", f"data.path={tmp_path}", "+data@stages.infuse.data=llava_json"]
    problems = find_problems(compose_config(*words))
    assert set(problems) == {"stages.infuse.data.path", "stages.infuse.data.image_root"}
    assert "the JSON (or JSONL) file" in problems["stages.infuse.data.path"]
    assert find_problems(compose_config(*words, "method.stages=[align]")) == {}
    own = [f"stages.infuse.data.path={tmp_path}/none.json", f"stages.infuse.data.image_root={tmp_path}"]
    assert list(find_problems(compose_config(*words, *own))) == ["stages.infuse.data.path"]
    assert find_problems(compose_config(*words, "task=evaluate", "evaluation=shapes")) == {}


def test_run_folders_and_the_task_that_reads_them_belong_together(compose_config: Compose, tmp_path: Path) -> None:
    a = tmp_path / "a"
    a.mkdir()
    assert "holds no run" in find_problems(compose_config("task=compare", f"runs=[{a}]"))["runs"]
    (a / "config.yaml").write_text("seed: 0\n")
    assert "needs something to show" in find_problems(compose_config("task=compare"))["runs"]
    assert "needs something to show" in find_problems(compose_config("task=gallery"))["run"]
    assert "only read by task=compare" in find_problems(compose_config("runs=[a]"))["runs"]
    assert list(find_problems(compose_config("task=compare", f"runs=[{a}]", f"run={a}"))) == ["run"]
    assert find_problems(compose_config("task=compare", f"runs=[{a}]")) == {}
    assert find_problems(compose_config("task=gallery", f"run={a}")) == {}
