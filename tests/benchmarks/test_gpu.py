"""The GPU benchmark: its arithmetic by hand, the script end to end on a toy, and, where there is a GPU, on a small model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_step import main, model_flops, peak_flops
from parallax.models.memory.model_shape import LinearKind, ModelShape
from parallax.models.memory.planner import Workload


def test_the_script_runs_end_to_end_on_a_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu.json"
    arguments = ["--tiny", "--rounds", "1", "--warmup", "0", "--response-tokens", "24", "--rank", "8", "--pairs", "2"]
    content = main([*arguments, "--json", str(path)])
    assert [(row["responses"], row["layout"]) for row in content["rows"]] == [
        (2, "separate"), (2, "shared"), (2, "TRL"), (5, "separate"), (5, "shared"),
    ]  # fmt: skip
    ours = [row for row in content["rows"] if row["layout"] != "TRL"]
    assert all(row["seconds"] > 0 and 0.8 < row["forecast_over_peak"] < 1.2 for row in ours)
    assert all(row["utilisation"] is None for row in ours)  # a CPU's peak is not known
    assert json.loads(path.read_text())["rows"] == json.loads(json.dumps(content["rows"]))
    shown = capsys.readouterr().out
    assert "| responses | layout " in shown and "a peak that is not known here" in shown


def test_strategies_get_rows_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--tiny",
        "--rounds",
        "1",
        "--warmup",
        "1",
        "--response-tokens",
        "24",
        "--rank",
        "8",
        "--pairs",
        "2",
        "--no-trl",
    ]
    path = tmp_path / "gpu.json"
    content = main([*arguments, "--responses", "2", "--strategies", "ddp", "fsdp", "fsdp2", "--json", str(path)])
    layouts = [row["layout"] for row in content["rows"]]
    assert layouts == ["separate", "shared", "separate, ddp", "separate, fsdp", "separate, fsdp2"]
    assert all(row["seconds"] > 0 and 0.8 < row["forecast_over_peak"] < 1.2 for row in content["rows"])
    assert "separate, fsdp2" in capsys.readouterr().out


def test_without_a_gpu_the_real_size_is_refused_in_words() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="there is no GPU here .* --tiny"):
        main([])


def test_floating_point_operations_by_hand() -> None:
    """One layer of one 10 x 20 matrix, one head of width 4, vocabulary 7, hidden 10; a row of 6 + 2 tokens, two responses."""
    shape = ModelShape(
        layers=1, hidden=10, heads=1, kv_heads=1, head_dim=4, intermediate=20, vocabulary=7,
        linears=(LinearKind("up_proj", 10, 20, 1),), embedding=70, head=70, other_language=0, vision_and_projector=100,
    )  # fmt: skip
    work = Workload(6, 3, 2, responses=2, pairs=1, rank=2)
    base, adapter, tokens = 4 * 10 * 20, 6 * 2 * 30, 2 * 8
    attention = 3 * 4 * (2 * 8 * 8 / 2) * 4
    head, images = 4 * 4 * 7 * 10, 2 * 100 * 3
    assert model_flops(shape, work) == tokens * (base + adapter) + attention + head + images
    shared = model_flops(shape, replace(work, layout="shared", attention="prefix_sdpa"))
    squares = 6 * 6 / 2 + 4 * 6 + 2 * 2 * 2 / 2
    assert shared == 10 * (base + adapter) + 3 * 4 * squares * 4 + head + images


def test_the_peak_of_a_device_is_found_by_its_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("Somebody's Chip 9000") is None


def test_the_hour_writes_each_part_as_it_ends(tmp_path: Path) -> None:
    content = gpu.main(["--toy", "--out", str(tmp_path), "--parts", "attention"])
    assert content == {"toy": True, "gpus": 0, "parts": content["parts"]}
    (part,) = content["parts"]
    rows = {row["kernel"]: row for row in part["found"]["rows"]}
    assert part["exit_code"] == 0 and rows["SDPA in two"]["largest_difference"] < 1e-3
    assert "GPU" in rows["variable length"]["fault"]
    assert "| SDPA in two " in (tmp_path / "gpu.md").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text())["machine"]["torch"]


def test_a_part_that_fails_or_comes_too_late_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = gpu.Part("broken", "what cannot be", ["-c", "1/0"], ["-c", "print('| a |'); 1/0"])
    monkeypatch.setattr(gpu, "PARTS", [broken, replace(broken, name="several", several=True)])
    first, second = gpu.main(["--toy", "--out", str(tmp_path)])["parts"]
    assert first["exit_code"] == second["exit_code"] == 1
    assert "| a |" in (tmp_path / "gpu.md").read_text() and "Ended with code 1" in (tmp_path / "gpu.md").read_text()
    (late,) = gpu.main(["--toy", "--out", str(tmp_path), "--minutes", "-1", "--parts", "broken"])["parts"]
    assert late["left_out"] == "-1 minutes are over"
    with pytest.raises(SystemExit, match="there are broken, several"):
        gpu.main(["--toy", "--out", str(tmp_path), "--parts", "other"])


@pytest.mark.slow
def test_all_parts_run_on_toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)  # what a strategy of an earlier test left in this process
    content = gpu.main(["--toy", "--out", str(tmp_path)])
    assert {part["part"]: part["exit_code"] for part in content["parts"]} == {part.name: 0 for part in gpu.PARTS}
    building = next(part for part in content["parts"] if part["part"] == "building")["found"]["rows"]
    assert building[0]["tokens"] == building[1]["tokens"]  # the same answers, as long
    assert (tmp_path / "seva" / "stages" / "align" / "adapter" / "adapter_model.safetensors").is_file()


def test_pairs_for_images_of_free_size_are_scored_as_they_are(tmp_path: Path) -> None:
    arguments = [
        "--tiny",
        "--model",
        "qwen25_vl_7b",
        "--rounds",
        "1",
        "--warmup",
        "0",
        "--response-tokens",
        "24",
        "--rank",
        "8",
    ]
    content = main([*arguments, "--pairs", "2", "--responses", "2", "--json", str(tmp_path / "gpu.json")])
    assert [row["layout"] for row in content["rows"]] == ["separate", "shared"]
    assert all(0.8 < row["forecast_over_peak"] < 1.2 for row in content["rows"])


@pytest.mark.gpu
def test_on_a_gpu_the_peak_is_the_forecast(tmp_path: Path) -> None:
    strategies = ["--strategies", "ddp", "fsdp", "fsdp2"]
    content = main(
        ["--model", "60m", "--rounds", "2", "--pairs", "4", *strategies, "--json", str(tmp_path / "gpu.json")]
    )
    ours = [row for row in content["rows"] if row["layout"] != "TRL"]
    assert all(0.9 < row["forecast_over_peak"] < 1.1 for row in ours)
