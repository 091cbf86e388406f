"""SIMA, CSR and self-rewarding from the command's configuration to a tuned adapter, small; and the judges against the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from parallax.settings.check import check
from parallax.tasks import run_task
from parallax.tasks.check_judge import compared

SMALL = (
    "data.size=5", "trainer.batch_size=4", "trainer.max_epochs=1", "evaluation.when=[]", "trainer=cpu", "logger=none",
    "generation.max_new_tokens=40",
)  # fmt: skip
TREE = (
    "stages.align.proposer.num_groups=3",
    "stages.align.proposer.keep_bottom=1",
    "stages.align.proposer.prune_from=3",
)

Run = Callable[..., Path]


@pytest.fixture
def run(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Run:
    """`run("folder", "method=csr")`: a small run with one cache per test; gives its folder."""

    def start(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        cfg = compose_config(*SMALL, *overrides, f"paths.output_dir={folder}", f"paths.cache_dir={tmp_path / 'cache'}")
        check(cfg)
        run_task(cfg)
        return folder

    return start


def pairs_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from pyarrow import parquet

    report = json.loads((folder / "stages/align/pairs.json").read_text())
    return report, parquet.read_table(Path(report["pair_set"]) / "pairs.parquet").to_pylist()


def test_sima_tunes_on_what_the_model_itself_preferred(run: Run) -> None:
    report, pairs = pairs_of(
        run(
            "sima",
            "method=sima",
            "judge.order=random",
            "stages.align.proposer.temperature=1.5",
            "stages.align.proposer.top_p=1",
        )
    )
    assert report["judge"]["verdicts"] >= report["kept"] == len(pairs) > 0
    assert all(json.loads(pair["meta"])["judge"]["order"] == "random" for pair in pairs)


def test_simas_critic_agrees_with_itself_in_both_orders_and_with_the_truth(run: Run) -> None:
    report, pairs = pairs_of(run("both", "method=sima", "data.size=24", "stages.align.proposer.temperature=1.5"))
    assert report["judge"]["verdicts"] >= 2 * report["kept"] and report["kept"] == len(pairs) >= 4
    folder = run(
        "check", "task=check_judge", "method=sima", "task.answers=corrupted", "task.samples=12", "data.size=12"
    )
    content = json.loads((folder / "judge.json").read_text())
    assert content["decided"] >= 8 and content["right"] >= content["decided"] - 1


def test_csr_tunes_on_the_best_and_worst_path_and_another_weight_searches_nothing_again(run: Run) -> None:
    folder = run("csr", "method=csr", *TREE)
    report, pairs = pairs_of(folder)
    assert (report["built"], report["reused"]) == (5, 0) and report["judge"]["trees"] == 5 and pairs
    for pair in pairs:
        assert pair["chosen_score"] > pair["rejected_scores"][0]
        told = json.loads(pair["chosen_provenance"])["judge"]["sentences"]
        assert all(-1 <= sentence["cosine"] <= 1 for sentence in told)
    assert (folder / "stages/align/adapter/adapter_config.json").is_file()
    again, others = pairs_of(run("self", "method=self_rewarding", *TREE))
    assert (again["built"], again["reused"]) == (0, 5)
    assert json.loads(others[0]["chosen_provenance"])["judge"]["sentences"][0]["cosine"] is None


def test_a_judge_is_compared_with_the_truth(run: Run) -> None:
    folder = run("check", "task=check_judge", "method=sima", "task.answers=corrupted", "task.samples=5")
    content = json.loads((folder / "judge.json").read_text())
    assert content["samples"] == 5 and content["decided"] + content["undecided"] + content["without_truth"] == 5
    assert content["counts"]["verdicts"] == 10
    assert "samples" in content and content["without_truth"] == 0


def test_the_truth_of_a_comparison_by_hand() -> None:
    from types import SimpleNamespace

    from parallax.preference.judge import Judgement

    sample: Any = SimpleNamespace(objects=("red circle", "blue star"), kind="describe")
    right, wrong, same = (SimpleNamespace(text=t) for t in ("a red circle", "a red star", "a red circle."))
    groups: Any = [[right, wrong], [wrong, right], [right, wrong], [right, same]]
    judged = [Judgement((1.0, -1.0)), Judgement((1.0, -1.0)), Judgement(reason="tie"), Judgement((0.0, 1.0))]
    found = compared(list(zip([sample] * 4, groups, judged, strict=True)))
    assert (found["right"], found["decided"], found["undecided"], found["without_truth"]) == (1, 2, 1, 1)


def test_rejection_sampling_learns_right_answers_in_rounds_that_begin_again(run: Run) -> None:
    short = (
        "method=rejection_sampling", "data.size=12", "stages.tune.proposer.num_samples=4", "stages.tune.proposer.temperature=1.5",
        "generation.max_new_tokens=8",
    )  # fmt: skip
    folder = run("rejection", *short)
    for number in (1, 2):
        report = json.loads((folder / f"stages/round_{number}/tune/dialogues.json").read_text())
        counts, dropped = report["judge"], report["dropped"]
        assert (
            counts["samples"] == 12 and counts["answers"] == 48 and dropped.get("none_kept", 0) == counts["none_right"]
        )
        assert 0 < report["kept"] <= counts["right"] and report["kept"] + counts["none_right"] == report["samples"]
    again = run("again", *short, "method.rounds=1")
    one_round = (folder / "stages/round_1", again / "stages")
    first, alone = (path / "tune/adapter/adapter_model.safetensors" for path in one_round)
    assert first.read_bytes() == alone.read_bytes()
    from safetensors.torch import load_file

    start = load_file(str(folder / "stages/start_of_tune/adapter_model.safetensors"))
    assert all(bool((value == 0).all()) for name, value in start.items() if "lora_B" in name)


def test_right_answers_are_set_against_wrong_ones_for_mpo(run: Run) -> None:
    report, pairs = pairs_of(
        run(
            "mpo", "method=mpo_correctness", "data.size=12", "stages.align.proposer.temperature=1.5",
            "generation.max_new_tokens=8", "selector.per_sample=3",
        )
    )  # fmt: skip
    assert report["judge"]["none_right"] + report["judge"]["all_right"] <= sum(report["dropped"].values())
    assert 0 < len(pairs) == report["kept"] and {
        pair["chosen_score"] - pair["rejected_scores"][0] for pair in pairs
    } == {1.0}
