"""Two processes are one: the same losses, pairs, adapter and measurements, and each goes on where the other stopped.

The processes are real ones, forks that meet over gloo as under torchrun.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from parallax.reports.metrics_csv import read_metrics
from parallax.settings.check import check
from parallax.tasks import run_task
from parallax.tasks.training import fit_stage
from tests import typed
from tests.processes import in_processes, write_here
from tests.tasks.test_align import SMALL
from tests.tasks.tiny_fits import STAGE, TRAINER, policy_and_pairs
from tests.toys.tiny_checkpoints import make_tiny_checkpoint

CONF = Path(__file__).parents[2] / "conf"
TWO = {"strategy": "fsdp2", "devices": 2}


def run_config(overrides: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    check(cfg)
    run_task(cfg)


def fit(
    folder: Path, out: Path, changes: dict[str, Any], mode: str, resume: Path | None, stop: int, more: dict[str, Any]
) -> None:
    """`more`: keys of model, lora and optim, `refresh` of the pairs, the folder of an `earlier` adapter that is the reference."""
    trainer = {**TRAINER, **changes, "max_epochs": 2}
    policy, data = policy_and_pairs(folder, trainer=trainer, mode=mode, model=more.get("model"), lora=more.get("lora"))
    stage = {**STAGE, "reference": {"mode": mode, "source": "initial"}, "trainer": trainer}
    stage["debug"] = {"max_steps": None}
    stage["optim"] = {**STAGE["optim"], **more.get("optim", {})}
    stage["pairs"] = {"refresh": more.get("refresh", "never")}
    if more.get("earlier"):
        policy.take_reference(more["earlier"])
    if stop:
        data.build_pairs(policy)
        stop_after(data, stop)
    try:
        got = fit_stage(policy, data, typed.stage(**stage), out, resume_from=resume)
        policy.save_adapter(out / "adapter")
        write_here(out, "got", {"metrics": got["metrics"], "pairs": data.pair_ids, "reports": got["pair_reports"]})
    except KeyboardInterrupt:
        pass


def stop_after(data: Any, steps: int) -> None:
    """Have the fit die like a killed job once so many steps have been brought."""
    load = data.epoch_loader

    def epoch_loader(*args: Any, **options: Any) -> Any:
        for step in load(*args, **options):
            if stop_after.left == 0:  # type: ignore[attr-defined]
                os._exit(0)
            stop_after.left -= 1  # type: ignore[attr-defined]
            yield step

    stop_after.left = steps  # type: ignore[attr-defined]
    data.epoch_loader = epoch_loader


def home_with_model(folder: Path) -> None:
    """Where a fit finds its model and keeps its cache."""
    if not (folder / "llava").is_dir():
        make_tiny_checkpoint("llava", folder / "llava", seed=3)


def losses(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in read_metrics(folder / "metrics.csv") if row.get("train/loss")]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def assert_same_adapter(one: Path, other: Path) -> None:
    first, second = adapter(one), adapter(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        apart = (
            value - second[name]
        ).abs()  # where a gradient is almost zero, rounding decides the sign of Adam's step
        assert apart.mean() < 1e-6 and apart.max() < 1e-4, (name, apart.mean(), apart.max())


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """`start("name", 2, strategy="fsdp2")`: a fit in so many processes; returns its folder."""

    def begin(
        name: str,
        count: int = 1,
        *,
        mode: str = "cached",
        resume: Path | None = None,
        stop: int = 0,
        more: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        changes = {"devices": count, **changes}
        home_with_model(tmp_path / f"home-{name}")
        in_processes(count, fit, tmp_path / f"home-{name}", out, changes, mode, resume, stop, more or {})
        return out

    return begin


@pytest.mark.parametrize(
    ("strategy", "mode"), [("fsdp2", "cached"), ("fsdp2", "live"), ("fsdp", "live"), slow("fsdp", "cached")]
)
def test_sharded_weights_learn_what_whole_ones_learn(start: Any, strategy: str, mode: str) -> None:
    one = start("one", mode=mode, gradient_clip_val=0.05)
    recompute = mode == "live"  # activations, in one of the two cases
    two = start("two", 2, mode=mode, strategy=strategy, gradient_clip_val=0.05, activation_checkpointing=recompute)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(one)) == 6
    first, *both = (torch.load(path) for path in (one / "got-0.pt", two / "got-0.pt", two / "got-1.pt"))
    for got in both:
        assert got["pairs"] == first["pairs"]
        assert got["metrics"] == pytest.approx(first["metrics"], rel=1e-4, abs=1e-5)
    assert first["metrics"]["train/grad_norm"] > 0.05  # so clipping was at work
    assert_same_adapter(one / "adapter", two / "adapter")


def apart(some: list[float], others: list[float]) -> float:
    """The largest relative difference between the losses of two runs."""
    return max(abs(a - b) / abs(b) for a, b in zip(some, others, strict=True))


def assert_same_with_rebuilt_pairs(one: Path, two: Path) -> None:
    """Two processes did what one did, rebuilt their pairs in the middle and compared with an adapter trained before."""
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert abs(losses(one)[0] - 0.6931) > 1e-3, "the reference was the base model"
    first, *both = (torch.load(path) for path in (one / "got-0.pt", two / "got-0.pt", two / "got-1.pt"))
    assert len(first["reports"]) == 2 and first["reports"][1]["built"] > 0  # by a policy that has learned something
    for got in both:
        assert got["pairs"] == first["pairs"]
        assert [report["kept"] for report in got["reports"]] == [report["kept"] for report in first["reports"]]
    assert both[0]["reports"][1]["key"] == both[1]["reports"][1]["key"]
    assert_same_adapter(one / "adapter", two / "adapter")


@pytest.mark.parametrize("strategy", ["fsdp2", slow("fsdp")])
def test_sharded_weights_answer_in_the_middle_and_are_compared_with_an_earlier_adapter(
    start: Any, strategy: str
) -> None:
    """Pairs are rebuilt after the first epoch by the policy as it then is; the reference is an adapter trained before."""
    more = {"refresh": "epoch", "earlier": start("first") / "adapter"}
    one = start("one", mode="live", more=more)
    two = start("two", 2, mode="live", more=more, strategy=strategy)
    assert_same_with_rebuilt_pairs(one, two)


@pytest.mark.parametrize("strategy", ["fsdp2", slow("fsdp")])
def test_a_checkpoint_of_two_goes_on_with_one_and_back(start: Any, strategy: str) -> None:
    whole = losses(start("whole"))
    for name, counts in (("shrinks", (2, 1)), ("grows", (1, 2))):
        strategies = [strategy if count == 2 else "auto" for count in counts]
        out = start(name, counts[0], strategy=strategies[0], stop=3)
        newest = sorted((out / "checkpoints").glob("step-*.ckpt"))[-1]
        assert newest.is_dir() == (counts[0] == 2)
        assert not (out / "adapter").exists()
        again = start(name, counts[1], strategy=strategies[1], resume=newest)
        assert (again / "adapter").is_dir()
        step = int(newest.stem[-6:])
        assert 1 <= step < 6
        resumed = losses(again)[-(6 - step) :]
        assert resumed == pytest.approx(whole[step:], rel=1e-5)


def test_a_quantised_base_learns_in_two_processes_what_it_learns_in_one(start: Any) -> None:
    """QLoRA under DDP: each process holds the four-bit base."""
    settings: dict[str, Any] = {"more": {"model": {"quantization": "nf4"}}, "gradient_clip_val": 0.05}
    one, two = start("one", **settings), start("two", 2, strategy="ddp", **settings)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(one)) == 6 and losses(one)[-1] < losses(one)[0]
    assert_same_adapter(one / "adapter", two / "adapter")
    plain = start("plain", gradient_clip_val=0.05)
    assert losses(plain) != losses(one), "nothing was quantised"


LEARNERS = {  # LoRA of a rank at which moments are large enough for eight bits, and full fine-tuning
    "lora": {"lora": {"r": 64}},
    "full": {"lora": {"enabled": False}, "optim": {"lr": 1e-3}},
}


# losses in half precision: how far those of `fsdp` and of `fsdp2` may be from those of `ddp`, all in two processes
HALF = {
    "bf16-mixed": (1e-5, 1e-5),
    "bf16-mixed, full": (3e-4, 1e-5),  # the norm for clipping is summed in another order
    "bf16-mixed, full, unclipped": (1e-5, 1e-5),
    "bf16-true": (1e-5, 1e-5),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HALF)
def test_half_precision_is_the_same_sharded_and_whole(start: Any, what: str) -> None:
    """The yardstick is one process that adds up micro-batches of other sizes: all that differs there is rounding."""
    settings: dict[str, Any] = {
        "precision": what.partition(",")[0],
        "more": LEARNERS["full"] if "full" in what else {},
        "gradient_clip_val": None if "unclipped" in what else 1.0,
    }
    one = losses(start("one", **settings))
    exact = losses(start("exact", **{**settings, "precision": "32-true"}))
    assert one != pytest.approx(exact, rel=1e-5), "half precision was not at work"
    for size in (1, 4):
        other = losses(start(f"by-{size}", micro_batch_size=size, **settings))
        print(f"one process, micro-batches of {size}: {apart(other, one):.1e} from itself")
        assert other == pytest.approx(one, rel=1e-3)
        assert other != pytest.approx(one, rel=1e-5), "rounding does not show, so these bounds could be narrower"
    ddp, fsdp, fsdp2 = (losses(start(kind, 2, strategy=kind, **settings)) for kind in ("ddp", "fsdp", "fsdp2"))
    print(f"ddp {apart(ddp, one):.1e}, fsdp {apart(fsdp, one):.1e}, fsdp2 {apart(fsdp2, one):.1e} from one process")
    print(f"fsdp {apart(fsdp, ddp):.1e}, fsdp2 {apart(fsdp2, ddp):.1e} from ddp")
    assert fsdp == pytest.approx(ddp, rel=HALF[what][0])
    assert fsdp2 == pytest.approx(ddp, rel=HALF[what][1])
    for two in (ddp, fsdp, fsdp2):
        assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrote", "reads"), [("fsdp2", "fsdp2"), ("fsdp", "fsdp"), ("fsdp", "fsdp2"), ("fsdp2", "fsdp")]
)
def test_one_file_serves_as_well_as_a_folder(start: Any, wrote: str, reads: str) -> None:
    whole = losses(start("whole"))
    settings = {"every_n_steps": 1, "keep": 10, "sharded": False}
    out = start("file", 2, strategy=wrote, stop=3, checkpoint=settings)
    newest = sorted((out / "checkpoints").glob("step-*.ckpt"))[-1]
    assert newest.is_file()
    step = int(newest.stem[-6:])
    resumed = losses(start("file", 2, strategy=reads, resume=newest, checkpoint=settings))[-(6 - step) :]
    assert resumed == pytest.approx(whole[step:], rel=1e-5)


def test_a_run_of_two_processes_is_the_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    words = [*SMALL, "evaluation.every_n_steps=1", "optim.lr=1e-3", "trainer.batch_size=4", "loss=dpo", "resume=never"]
    results = []
    for name, count in (("one", 1), ("two", 2)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        extra = [] if count == 1 else ["trainer.strategy=fsdp2", "trainer.devices=2"]
        in_processes(count, run_config, [*words, *places, *extra])
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
    one, two = tmp_path / "one", tmp_path / "two"
    assert results[1]["before"] == results[0]["before"]
    assert results[1]["pairs"] == results[0]["pairs"] and results[0]["pairs"]["built"] == 32
    keys = [json.loads((folder / "stages/align/pairs.json").read_text())["key"] for folder in (one, two)]
    assert keys[0] == keys[1]
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for ours, theirs in zip(read_metrics(one / "metrics.csv"), read_metrics(two / "metrics.csv"), strict=True):
        assert ours["eval/recall"] == theirs["eval/recall"]  # measured in the middle of the fit
    assert results[1]["after"] == results[0]["after"]
    assert_same_adapter(one / "stages/align/adapter", two / "stages/align/adapter")
    assert "process 2 of 2" in (two / "run-1.log").read_text()

    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained("assets/tiny_llava")
    PeftModel.from_pretrained(base, str(two / "stages/align/adapter"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["trainer.strategy=ddp"], ["trainer.strategy=fsdp2", "lora=none"]], ids=["ddp", "full"]
)
def test_other_ways_to_share_a_run_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("PARALLAX_ROOT", str(CONF.parent))
    for name, count in (("one", 1), ("two", 2)):
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / f'cache-{name}'}"]
        extra = [w for w in words if count == 2 or "strategy" not in w]
        in_processes(
            count,
            run_config,
            [*SMALL, "evaluation.when=[]", "resume=never", *places, *extra, f"trainer.devices={count}"],
        )
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def supervised(folder: Path, out: Path, changes: dict[str, Any]) -> None:
    from datamodules.shapes.source import ShapesSource
    from datamodules.supervised import SupervisedDataModule

    trainer = {**TRAINER, **changes}
    policy, _ = policy_and_pairs(folder, trainer=trainer)
    data = SupervisedDataModule(ShapesSource("pairs_habit_free", size=9), trainer=trainer)
    fit_stage(policy, data, typed.stage(**{**STAGE, "trainer": trainer}), out)


@pytest.mark.slow
def test_supervised_stages_are_sharded_too(tmp_path: Path) -> None:
    for name, count, changes in (("one", 1, {}), ("two", 2, TWO)):
        (tmp_path / name).mkdir()
        home_with_model(tmp_path / f"home-{name}")
        in_processes(count, supervised, tmp_path / f"home-{name}", tmp_path / name, changes)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
