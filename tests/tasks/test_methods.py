"""Methods of several stages and rounds, small: what each leaves behind, who made it, and where a stopped run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from parallax.settings.check import check
from parallax.tasks import run_task

SMALL = (
    "data.size=8", "trainer.batch_size=4", "trainer.micro_batch_size=4", "trainer.max_epochs=1", "evaluation.when=[]",
    "evaluation.scenes=4", "evaluation.pope_scenes=1", "evaluation.bootstrap=20", "trainer=cpu", "logger=none",
    "generation.max_new_tokens=24", "pairs.drop_equal=false", "optim.warmup_ratio=0",
)  # fmt: skip

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Run:
    """`run("folder", "method=stic")`: a small run in `tmp_path/folder`; gives results.json and the manifest's stages."""

    def start(name: str, *overrides: str) -> dict[str, Any]:
        folder = tmp_path / name
        own_data = any(word.startswith("data=") for word in overrides)
        small = [word for word in SMALL if not (own_data and word.startswith("data."))]
        cfg = compose_config(*small, *overrides, f"paths.output_dir={folder}", f"paths.cache_dir={tmp_path / 'cache'}")
        check(cfg)
        run_task(cfg)
        stages = json.loads((folder / "manifest.json").read_text())["stages"]
        return {**json.loads((folder / "results.json").read_text()), "folder": folder, "made": stages}

    return start


def adapter(results: dict[str, Any], stage: str) -> bytes:
    path: Path = results["folder"] / "stages" / stage / "adapter" / "adapter_model.safetensors"
    return path.read_bytes()


def test_rounds_go_on_with_the_policy_they_made_and_compare_it_with_the_round_before(run: Run) -> None:
    results = run("rounds", "method=spin", "method.rounds=2", "evaluation.when=[before,after_round,after]")
    first, second = results["made"]
    assert [first["name"], second["name"]] == ["round_1/align", "round_2/align"] == list(results["stages"])
    assert first["adapter_before"] is None and second["adapter_before"] == "stages/round_1/align/adapter"
    assert second["policy_before"] == first["policy_after"] != first["policy_before"]
    assert first["reference"]["policy"] == first["policy_before"]
    assert second["reference"] == {"source": "previous_round", "mode": "cached", "policy": first["policy_after"]}
    assert results["pairs"]["built"] == 16  # another policy's samples: asked anew in the second round
    for stage, made in zip(("round_1/align", "round_2/align"), results["made"], strict=True):
        folder = results["folder"] / "stages" / stage
        manifest = json.loads((Path(made["data"][0]["pair_set"]) / "manifest.json").read_text())
        assert manifest["policy"]["fingerprint"] == made["policy_before"]
        for name in ("pairs.json", "fit.json", "metrics.csv", "adapter/adapter_config.json", "eval_after_round.json"):
            assert (folder / name).is_file(), name
        assert json.loads((folder / "fit.json").read_text())["metrics"]["train/loss"] < 0.8
    assert [entry["round"] for entry in results["rounds"]] == [1, 2]
    assert results["rounds"][1]["metrics"]["chair_i"] == results["after"]["chair_i"]["value"]
    assert "round_2/align" in (results["folder"] / "report.html").read_text()


def test_a_run_that_was_stopped_in_round_2_goes_on_there_to_the_very_same_adapter(run: Run, tmp_path: Path) -> None:
    words = ("method=spin", "method.rounds=2", "trainer.checkpoint.every_n_steps=1", "trainer.checkpoint.keep=9")
    whole = run("whole", *words)
    cut = tmp_path / "cut"
    shutil.copytree(whole["folder"], cut)  # as a kill after the first step of round 2 leaves it
    (cut / "results.json").unlink()
    (cut / "run.log").unlink()
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(json.dumps({**manifest, "stages": manifest["stages"][:1]}))
    shutil.rmtree(cut / "stages/round_2/align/adapter")
    kept = sorted((cut / "stages/round_2/align/checkpoints").glob("step-*.ckpt"))
    assert [path.unlink() or path.name for path in kept[1:]] == ["step-000002.ckpt"]
    again = run("cut", *words)
    log = (cut / "run.log").read_text()
    assert "stage round_1/align is done already" in log and "going on from" in log and "step-000001" in log
    assert adapter(again, "round_2/align") == adapter(whole, "round_2/align")
    assert [made["policy_after"] for made in again["made"]] == [made["policy_after"] for made in whole["made"]]
    assert (again["steps"], again["pairs"]["kept"]) == (whole["steps"], whole["pairs"]["kept"])

    (cut / "stages/round_1/align/adapter/adapter_model.safetensors").write_bytes(b"torn")  # no longer what was noted
    assert adapter(run("cut", *words), "round_2/align") == adapter(whole, "round_2/align")


def test_stic_runs_whole_or_stage_by_stage_with_one_result(run: Run) -> None:
    words = ("method=stic", "stages.infuse.data.size=6")
    whole = run("whole", *words)
    align, infuse = whole["made"]
    assert (align["fit"], infuse["fit"]) == ("preference", "supervised")
    assert infuse["policy_before"] == align["policy_after"] and infuse["adapter_before"] == "stages/align/adapter"
    assert align["data"][0]["kept"] == 8 and infuse["data"][0]["kept"] == 6
    first = run("first", *words, "method.stages=[align]")
    second = run("second", *words, "method.stages=[infuse]", f"adapter={first['folder'] / 'stages/align/adapter'}")
    assert adapter(second, "infuse") == adapter(whole, "infuse")
    assert second["made"][0]["policy_before"] == align["policy_after"]
    assert (second["pairs"]["built"], second["pairs"]["reused"]) == (0, 6)


def test_stic_trains_on_the_neutral_prompt(run: Run) -> None:
    from parallax.records.pair_store import PairSet

    results = run("stic", "method=stic", "method.stages=[align]")
    rows = PairSet(Path(results["made"][0]["data"][0]["pair_set"]))
    assert rows.manifest()["proposer"]["good"] == [
        "Describe the image step by step.", "Describe the picture step by step, naming only what you can see.",
    ]  # fmt: skip
    import pandas

    table = pandas.read_parquet(rows.folder / "pairs.parquet")
    neutral = rows.manifest()["proposer"]["neutral"]
    assert set(table["prompt"]) <= set(neutral) and len(table) == 8
    asked = {json.loads(text)["prompt"] for text in table["chosen_provenance"]}
    assert asked and not asked & set(neutral)


@pytest.mark.parametrize(
    ("method", "stages", "words"),
    [
        ("positive_only", ["supervised", "supervised"], ("stages.infuse.data.size=4",)),
        ("continual_sft", ["supervised"], ("data.size=80",)),
        ("gt_dpo", ["preference"], ()),
        ("povid", ["preference", "preference"], ()),
    ],
)
def test_every_baseline_runs(run: Run, method: str, stages: list[str], words: tuple[str, ...]) -> None:
    results = run(method, f"method={method}", *words)
    assert [made["fit"] for made in results["made"]] == stages
    assert all(made["policy_after"] != made["policy_before"] for made in results["made"])
    assert all(made["data"][0]["kept"] >= 4 for made in results["made"])
    if method == "povid":
        first, second = results["made"]
        assert second["reference"] == {"source": "previous_stage", "mode": "live", "policy": first["policy_after"]}
        assert {"train/loss/text", "train/loss/noise"} <= set(results["stages"]["noise"]["metrics"])
        assert results["pairs"]["built"] == 0  # edited texts: nothing is generated


def test_rejected_answers_may_be_scored_as_the_released_code_does(run: Run) -> None:
    plain = run("label", "reference=live", "method.stages=[align]")
    other = run("argmax", "reference=live", "pairs.rejected_scorer=argmax_not_label")
    assert other["pairs"]["built"] == 0 and adapter(other, "align") != adapter(plain, "align")


def test_sena_asks_itself_and_a_second_run_finds_everything(run: Run) -> None:
    words = ("method=sena", "data.size=3")
    results = run("sena", *words)
    (made,) = results["made"]
    manifest = json.loads((Path(made["data"][0]["pair_set"]) / "manifest.json").read_text())
    assert manifest["asker"]["asker"] == "SelfAsked" and manifest["proposer"]["inner"]["proposer"] == "ByView"
    import pandas

    table = pandas.read_parquet(Path(made["data"][0]["pair_set"]) / "pairs.parquet")
    assert set(table["kind"]) == {"des", "gen"} and all("/asked/" in name for name in table["sample_id"])
    again = run("again", *words)
    assert again["pairs"]["built"] == 0 and adapter(again, "align") == adapter(results, "align")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dropout_ntp", "shape", "self_rewritten", "bpo", "opa_dpo"])
def test_methods_that_ask_again_run_to_the_end_and_find_their_answers(method: str, run: Run) -> None:
    words = ("data.size=12", *(["stages.warm.share=1"] if method == "opa_dpo" else []))
    results = run("first", f"method={method}", *words)
    again = run("again", f"method={method}", *words)
    assert results["pairs"]["kept"] > 0 == again["pairs"]["built"]
    assert adapter(again, "align") == adapter(results, "align")


def test_any_method_asks_its_own_questions_about_a_folder_of_images(run: Run, tmp_path: Path) -> None:
    from datamodules.shapes.source import ShapesSource

    (tmp_path / "photos").mkdir()
    for place, sample in enumerate(ShapesSource("pairs_habit_free", 3)):
        sample.image.load().save(tmp_path / "photos" / f"{place}.png")
    things = "(red|yellow|blue|green|purple|orange) (circle|star|square|triangle|diamond|cross)"
    results = run(
        "folder", "method=seva", "data=image_folder", f"data.path={tmp_path / 'photos'}", "asker=self_asked",
        "prompts=self_made", "asker.ask=[Describe the image.]", "asker.check=null", "asker.describe=[]",
        f'asker.pattern="{things}"', 'asker.wordings=["Where is the {thing}?"]', "asker.in_a_word=''",
    )  # fmt: skip
    assert results["pairs"]["kept"] > 3
