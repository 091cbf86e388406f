"""`trainer=deepspeed` in two processes on a CPU learns what one plain process learns.

DeepSpeed leaves small weights whole in every process; here it is told to divide them all (`stage3_param_persistence_threshold`),
so that what is tested is what happens with large ones.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightning_modules.callbacks import EveryNSteps
from parallax.models import processes
from parallax.models.generation.requests import GenerationRequest
from parallax.records import Decoding, ViewSpec
from parallax.reports.metrics_csv import read_metrics
from parallax.tasks.training import fit_stage
from tests import typed
from tests.processes import in_processes, write_here
from tests.tasks.test_align import SMALL
from tests.tasks.test_many_processes import (
    CONF,
    assert_same_adapter,
    assert_same_with_rebuilt_pairs,
    fit,
    home_with_model,
    losses,
    run_config,
)
from tests.tasks.tiny_fits import STAGE, TRAINER, policy_and_pairs
from tests.tasks.zero_here import let_deepspeed_compute_here, needs_deepspeed

pytestmark = [pytest.mark.slow, needs_deepspeed]

DIVIDE_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
UNEVEN = {"batch_size": 5, "micro_batch_size": 1, "gradient_clip_val": 0.05}  # three micro-batches here and two there
STAGES = {
    "weights_sharded": {"stage": 3, "config": DIVIDE_ALL},
    "small_weights_whole": {"stage": 3},
    "gradients_sharded": {"stage": 2},
    "moments_in_host_memory": {"stage": 3, "offload_optimizer": True, "config": DIVIDE_ALL},
    "gradients_and_host": {"stage": 2, "offload_optimizer": True},
    "all_in_host_memory": {"stage": 3, "offload_optimizer": True, "offload_parameters": True, "config": DIVIDE_ALL},
}


def fit_here(folder: Path, out: Path, changes: dict[str, Any], *rest: Any) -> None:
    if changes["strategy"] == "deepspeed":
        let_deepspeed_compute_here()
    fit(folder, out, changes, *rest)


def start(
    folder: Path,
    name: str,
    count: int,
    *,
    mode: str = "cached",
    resume: Path | None = None,
    stop: int = 0,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    out = folder / name
    out.mkdir(exist_ok=True)
    home_with_model(folder / f"home-{name}")
    changes = {"devices": count, "strategy": "deepspeed" if count > 1 else "auto", **UNEVEN, **changes}
    in_processes(count, fit_here, folder / f"home-{name}", out, changes, mode, resume, stop, more or {}, timeout=600)
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit by one plain process."""
    return start(tmp_path_factory.mktemp("alone"), "one", 1)


@pytest.mark.parametrize("way", STAGES)
def test_two_processes_learn_what_one_learns(alone: Path, tmp_path: Path, way: str) -> None:
    mode = "live" if way == "weights_sharded" else "cached"
    recompute = way == "weights_sharded"
    two = start(tmp_path, "two", 2, mode=mode, deepspeed=STAGES[way], activation_checkpointing=recompute)
    assert losses(two) == pytest.approx(losses(alone), rel=1e-5)
    assert len(losses(alone)) == 4 and losses(alone)[-1] < losses(alone)[0]
    first, *both = (torch.load(path) for path in (alone / "got-0.pt", two / "got-0.pt", two / "got-1.pt"))
    assert first["metrics"]["train/grad_norm"] > 0.05  # so clipping was at work
    for got in both:
        assert got["pairs"] == first["pairs"]
        assert got["metrics"] == pytest.approx(first["metrics"], rel=1e-4, abs=1e-5)
    assert_same_adapter(alone / "adapter", two / "adapter")


HOPS = {
    "from_two_to_one": [("deepspeed", 2, "small_weights_whole"), ("auto", 1, None)],
    "from_one_to_three": [("auto", 1, None), ("deepspeed", 3, "weights_sharded")],  # three divide no tensor evenly
    "from_fsdp2": [("fsdp2", 2, None), ("deepspeed", 2, "gradients_sharded")],
    "to_fsdp": [("deepspeed", 2, "gradients_sharded"), ("fsdp", 2, None)],
    "from_stage_to_stage": [("deepspeed", 3, "all_in_host_memory"), ("deepspeed", 2, "gradients_and_host")],
    "in_one_file": [("deepspeed", 2, "moments_in_host_memory"), ("deepspeed", 2, "small_weights_whole")],
}


@pytest.mark.parametrize("way", ["weights_sharded", "gradients_sharded"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_learns_what_one_process_learns_in_it(tmp_path: Path, precision: str, way: str) -> None:
    """DeepSpeed computes with bfloat16 weights beside float32 masters, where Lightning alone autocasts: rounding differs."""
    one = losses(start(tmp_path, "one", 1, precision=precision))
    two = losses(start(tmp_path, "two", 2, precision=precision, deepspeed=STAGES[way]))
    print(precision, way, one, two)
    assert two == pytest.approx(one, rel=1e-3) and two[-1] < two[0]


@pytest.mark.parametrize("hop", HOPS)
def test_a_run_that_was_stopped_goes_on_with_other_processes_and_strategies(
    alone: Path, tmp_path: Path, hop: str
) -> None:
    (wrote, before, way), (reads, after, other) = HOPS[hop]
    kept = {"every_n_steps": 1, "keep": 10, "sharded": hop != "in_one_file"}
    settings: dict[str, Any] = {"checkpoint": kept, "deepspeed": STAGES.get(way or "", {})}
    out = start(tmp_path, "run", before, stop=2, strategy=wrote, **settings)
    newest = sorted((out / "checkpoints").glob("step-*.ckpt"))[-1]
    step = int(newest.stem[-6:])
    assert 1 <= step < 4 and not (out / "adapter").exists()
    assert newest.is_dir() == (wrote != "auto" and hop != "in_one_file")
    settings["deepspeed"] = STAGES.get(other or "", {})
    resumed = losses(start(tmp_path, "run", after, resume=newest, strategy=reads, **settings))[-(4 - step) :]
    assert resumed == pytest.approx(losses(alone)[step:], rel=1e-5)
    assert_same_adapter(alone / "adapter", out / "adapter")


@pytest.fixture(scope="module")
def rebuilt_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A fit by one plain process that rebuilds its pairs after the first epoch, against an adapter trained before."""
    folder = tmp_path_factory.mktemp("rebuilt")
    more = {"refresh": "epoch", "earlier": start(folder, "first", 1) / "adapter"}
    return start(folder, "one", 1, mode="live", more=more), more


@pytest.mark.parametrize("way", ["weights_sharded", "gradients_sharded"])
def test_the_policy_answers_in_the_middle_and_is_compared_with_an_earlier_adapter(
    rebuilt_alone: tuple[Path, dict[str, Any]], tmp_path: Path, way: str
) -> None:
    one, more = rebuilt_alone
    two = start(tmp_path, "two", 2, mode="live", more=more, deepspeed=STAGES[way])
    assert_same_with_rebuilt_pairs(one, two)


def answering(folder: Path, out: Path, changes: dict[str, Any]) -> None:
    """A fit in which the first process alone answers after every step, its answers in a file."""
    if changes["strategy"] == "deepspeed":
        let_deepspeed_compute_here()
    trainer = {**TRAINER, **changes}
    policy, data = policy_and_pairs(folder, trainer=trainer)
    data.build_pairs(policy)
    asked = [GenerationRequest(p.sample_id, p.image, p.prompt, ViewSpec(), Decoding(12)) for p in data.pairs[:3]]
    said: list[list[list[int]]] = []

    def act(step: int) -> dict[str, float]:
        with policy.gathered():
            if processes.is_first():
                said.append([list(answer.token_ids) for answer in policy.generate(asked, batch_size=2)])
        return {}

    stage = {**STAGE, "trainer": trainer, "debug": {"max_steps": None}}
    fit_stage(policy, data, typed.stage(**stage), out, callbacks=[EveryNSteps(1, act)])
    write_here(out, "said", said)


def test_one_process_may_answer_while_the_other_does_not(tmp_path: Path) -> None:
    """No layer waits for the other process then, and training goes on as if nothing had been."""
    for name, count, settings in (("one", 1, {}), ("two", 2, {"deepspeed": STAGES["weights_sharded"]})):
        (tmp_path / name).mkdir()
        home_with_model(tmp_path / f"home-{name}")
        changes = {"devices": count, "strategy": "deepspeed" if count > 1 else "auto", **UNEVEN, **settings}
        in_processes(count, answering, tmp_path / f"home-{name}", tmp_path / name, changes)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two, silent = (torch.load(tmp_path / path) for path in ("one/said-0.pt", "two/said-0.pt", "two/said-1.pt"))
    assert one == two and len(one) == 3 and silent == []


def broken_fit(folder: Path, out: Path, changes: dict[str, Any], what: str) -> None:
    """A fit whose second step meets, in the first process, a loss or a gradient that is not a finite number."""
    from lightning_modules.dpo import DPOModule

    if changes["strategy"] == "deepspeed":
        let_deepspeed_compute_here()
    losses_of, broken = DPOModule.losses, []

    def corrupted(self: Any, micro_batch: Any) -> Any:
        loss, metrics = losses_of(self, micro_batch)
        if self.global_step == 1 and processes.is_first() and not broken:
            broken.append(micro_batch.pair_ids)
            more = {"nan": loss * math.nan, "inf": math.inf, "gradient": (loss - loss.detach()).sqrt()}
            loss = loss + more[what]  # infinity leaves the gradient finite, and that root has a slope of infinity
        return loss, metrics

    DPOModule.losses = corrupted  # type: ignore[method-assign]
    trainer = {**TRAINER, **changes}
    policy, data = policy_and_pairs(folder, trainer=trainer)
    stage = {**STAGE, "trainer": trainer, "debug": {"max_steps": None}}
    got = fit_stage(policy, data, typed.stage(**stage), out)
    policy.save_adapter(out / "adapter")
    write_here(out, "bad", {"bad": got["bad_steps"], "blamed": broken})


BROKEN = {
    "nan": "weights_sharded",
    "inf": "gradients_sharded",
    "gradient": "small_weights_whole",
    "inf-host": "all_in_host_memory",
    "gradient-host": "gradients_and_host",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_step_that_is_not_finite_is_left_out_as_by_one_process(tmp_path: Path, case: str) -> None:
    """In all processes, whichever met it; what came before and comes after counts."""
    what = case.split("-")[0]
    for name, count, settings in (("one", 1, {}), ("two", 2, {"deepspeed": STAGES[BROKEN[case]]})):
        (tmp_path / name).mkdir()
        home_with_model(tmp_path / f"home-{name}")
        changes = {"devices": count, "strategy": "deepspeed" if count > 1 else "auto", **UNEVEN, **settings}
        in_processes(count, broken_fit, tmp_path / f"home-{name}", tmp_path / name, changes, what)
    one, *both = (torch.load(tmp_path / path) for path in ("one/bad-0.pt", "two/bad-0.pt", "two/bad-1.pt"))
    (bad,) = one["bad"]
    word, blamed = ("gradient", []) if what == "gradient" else ("loss", one["blamed"][0])
    assert bad == {"step": 1, "reason": f"the {word} is not a finite number", "pair_ids": blamed}
    assert [got["bad"] for got in both] == [one["bad"]] * 2
    ours, theirs = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert theirs == pytest.approx(ours, rel=1e-5, nan_ok=True) and len(ours) == 4
    assert math.isfinite(ours[1]) == (what == "gradient") and all(map(math.isfinite, (ours[0], *ours[2:])))
    assert_same_adapter(tmp_path / "one/adapter", tmp_path / "two/adapter")
    for folder in (tmp_path / "one", tmp_path / "two", tmp_path / "two/rank-1"):
        assert (folder / "bad_steps/step-000001.json").is_file()


def run_here(words: list[str]) -> None:
    let_deepspeed_compute_here()
    run_config(words)


def test_a_whole_run_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured before and after, with the adapter that the fit leaves on disk, and after each step."""
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    words = [
        *SMALL,
        "method=seva",
        "optim.lr=1e-3",
        "trainer.batch_size=4",
        "trainer.micro_batch_size=1",
        "resume=never",
        "evaluation.every_n_steps=1",
    ]
    divide_all = "trainer.deepspeed.config={zero_optimization: {stage3_param_persistence_threshold: 0}}"
    two_words = ["trainer=deepspeed", "trainer.accelerator=auto", "trainer.devices=2", divide_all]
    for name, count, more in (("one", 1, []), ("two", 2, two_words)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        in_processes(count, run_here if count == 2 else run_config, [*words, *more, *places], timeout=900)
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5) and len(losses(one)) >= 2
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    for key in ("before", "after", "pairs"):
        assert ours[key] == theirs[key]
    measured = [[row["eval/recall"] for row in read_metrics(folder / "metrics.csv")] for folder in (one, two)]
    assert measured[0] == measured[1] and len([value for value in measured[0] if value]) >= 2
    assert_same_adapter(one / "stages/align/adapter", two / "stages/align/adapter")

    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained("assets/tiny_llava")
    PeftModel.from_pretrained(base, str(two / "stages/align/adapter"))


def said(pair_set: str) -> list[tuple[str, ...]]:
    """What the pairs of a set say, apart from which policy is noted as their author."""
    import pandas

    table = pandas.read_parquet(Path(pair_set) / "pairs.parquet")
    return [tuple(map(str, row)) for row in table[["sample_id", "prompt", "chosen", "rejected"]].to_numpy()]


def run_and_count_models(words: list[str], out: Path) -> None:
    """A run that notes, whenever it loads a policy, how many of those it loaded before are still in memory."""
    import gc
    import weakref

    from parallax.tasks import parts

    make, made, alive = parts.make_policy, [], []

    def make_policy(*args: Any, **options: Any) -> Any:
        gc.collect()
        alive.append(sum(model() is not None for model in made))
        policy = make(*args, **options)
        made.append(weakref.ref(policy.model))
        return policy

    parts.make_policy = make_policy
    run_here(words)
    write_here(out, "alive", alive)


METHODS = {
    "stages": ["method=stic", "stages.infuse.data.size=6", "stages.infuse.optim.lr=1e-4", "evaluation.when=[after]"],
    "rounds": ["method=spin", "method.rounds=2", "evaluation.when=[before,after_round,after]"],
}


@pytest.mark.parametrize("words", METHODS.values(), ids=METHODS)
def test_a_method_of_several_stages_or_rounds_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Each stage begins with the adapter that the one before has left on disk, each round compares with the round before."""
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    words = [
        *SMALL,
        "data.size=8",
        "generation.max_new_tokens=24",
        "optim.lr=1e-4",
        "optim.warmup_ratio=0",
        "resume=never",
        *words,
    ]
    words += ["trainer.batch_size=4", "trainer.micro_batch_size=1"]
    divide_all = "trainer.deepspeed.config={zero_optimization: {stage3_param_persistence_threshold: 0}}"
    two_words = ["trainer=deepspeed", "trainer.accelerator=auto", "trainer.devices=2", divide_all]
    for name, count, more in (("one", 1, []), ("two", 2, two_words)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        act = (
            (run_and_count_models, [*words, *more, *places], tmp_path)
            if count == 2
            else (run_config, [*words, *places])
        )
        in_processes(count, *act, timeout=900)
    one, two = tmp_path / "one", tmp_path / "two"
    for number in range(2):
        alive = torch.load(tmp_path / f"alive-{number}.pt")
        assert len(alive) >= 2 and not any(alive), "the model of a stage that is over stays in memory"
    stages = sorted(path.parent.relative_to(one) for path in one.rglob("adapter"))
    assert len(stages) == 2
    for stage in stages:
        assert losses(two / stage) == pytest.approx(losses(one / stage), rel=1e-5) and len(losses(one / stage)) >= 2
        assert_same_adapter(one / stage / "adapter", two / stage / "adapter")
        for path in (one / stage).glob("pairs.json"):
            ours, theirs = (said(json.loads(p.read_text())["pair_set"]) for p in (path, two / stage / path.name))
            assert ours == theirs and ours
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    for key in ("before", "after", "pairs", "rounds"):
        assert ours.get(key) == theirs.get(key)


@pytest.mark.parametrize("words", [["lora=none"], []], ids=["everything", "beside_an_adapter"])
def test_more_than_an_adapter_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """The projector, and the whole language model or an adapter for it; and what is left on disk."""
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    more = ["optim.lr=1e-4", "evaluation.when=[]", "resume=never", "trainer.batch_size=4", "trainer.micro_batch_size=1"]
    two_words = ["trainer=deepspeed", "trainer.accelerator=auto", "trainer.devices=2"]
    for name, count, extra in (("one", 1, []), ("two", 2, two_words)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        in_processes(
            count,
            run_here if count == 2 else run_config,
            [*SMALL, "model.train_projector=true", *words, *more, *extra, *places],
            timeout=900,
        )
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5) and len(losses(one)) >= 2
    ours, theirs = (_weights(folder / "stages/align/adapter") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    before = load_file("assets/tiny_llava/model.safetensors")
    moved = [name for name, value in ours.items() if name not in before or not value.equal(before[name])]
    assert all(any(part in name for name in moved) for part in ("multi_modal_projector", "layers.0.self_attn"))
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() < 1e-4, name


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
