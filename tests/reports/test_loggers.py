"""Loggers: a real offline W&B run is made and its file read back; nothing of one run leaks into the next."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from parallax.records import PreferencePair, Response, ViewSpec
from parallax.records.images import FileImage
from parallax.reports.loggers import begin_stage, build_loggers, close_loggers, log_metrics, log_point
from parallax.reports.pairs_table import log_pairs
from parallax.reports.wandb_before import has_wandb_key
from parallax.reports.wandb_run import run_id
from tests.reports import wandb_file

VARIABLES = ("MODE", "PROJECT", "ENTITY", "RUN_GROUP", "NAME", "TAGS", "RUN_ID", "API_KEY", "JOB_TYPE")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No key, no W&B variables, nobody's netrc; W&B's caches in the test's folder."""
    for name in VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb-home"))
    yield
    import wandb

    wandb.finish()


def pairs(folder: Path, count: int) -> list[PreferencePair]:
    made = []
    for number in range(count):
        Image.new("RGB", (64, 48), (30 * number, 90, 120)).save(folder / f"{number}.png")
        view = {"name": "diffusion", "params": {"noise_steps": 500}, "seed": number}
        image = FileImage(str(folder), f"{number}.png")
        rejected = Response("a blue ball", provenance={"view": view})
        made.append(PreferencePair(f"s{number}", "test", image, "What?", Response("a red ball"), (rejected,)))
    return made


def test_a_run_without_a_key_is_offline_and_its_file_holds_config_metrics_and_pairs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    monkeypatch.setenv("WANDB_RUN_GROUP", "my group")
    folder = tmp_path / "run"
    config = {"loss": {"beta": 0.1}, "hub_token": "hf_secret", "paths": {"output_dir": "/here"}, "resume": "/here"}
    with caplog.at_level(logging.INFO):
        loggers = build_loggers(
            {"wandb": {"project": "ours", "mode": "auto"}},
            run_folder=folder,
            config=config,
            name="noise",
            tags=["first"],
        )
    said = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    assert len(said) == 1 and "no W&B key" in said[0]
    log_point(loggers, {"eval/chair_i": 0.15}, 0)
    for step in (1, 2):
        for logger in loggers:
            logger.log_metrics({"train/loss": 0.7 / step}, step)
    (tmp_path / "images").mkdir()
    assert log_pairs(loggers, pairs(tmp_path / "images", 5), limit=3) == 3
    log_metrics(loggers, {"eval/chair_i": 0.05, "eval_change/chair_i": -0.1})
    close_loggers(loggers)

    file = wandb_file.only_file(folder)
    read = wandb_file.config(file)
    assert read["loss"] == {"beta": 0.1} and b"hf_secret" not in file.read_bytes()
    history = wandb_file.history(file)
    assert [(row["trainer/global_step"], row["train/loss"]) for row in history if "train/loss" in row] == [
        (1, 0.7),
        (2, 0.35),
    ]
    assert wandb_file.summary(file)["eval/chair_i"] == 0.05
    assert wandb_file.summary(file)["eval_change/chair_i"] == -0.1
    assert not any("eval_change/chair_i" in row for row in history), "no panel of one point"
    assert [row["eval/chair_i"] for row in history if "eval/chair_i" in row] == [0.15, 0.05], (
        "before, at step 0, and after"
    )
    assert "paths" not in read and "resume" not in read
    (table,) = wandb_file.tables(file)
    assert table["columns"][3:5] == ["image", "corrupted"] and len(table["data"]) == 3
    row = table["data"][0]
    assert row[6:8] == ["a ⟦red⟧ ball", "a ⟦blue⟧ ball"] and row[8] == "diffusion {'noise_steps': 500}"
    clean, corrupted = (Image.open(table["files"][cell["path"]]) for cell in row[3:5])
    assert clean.size == (64, 48) and max(corrupted.size) <= 160
    assert len(corrupted.getcolors(1 << 24)) > 10 * len(clean.getcolors(1 << 24))  # one colour, and noise
    started = next(record.run for record in wandb_file.records(file) if record.HasField("run"))
    assert (started.project, started.run_group, started.display_name) == ("elsewhere", "my group", "noise")
    assert list(started.tags) == ["first"]
    assert "wandb" not in "".join(capfd.readouterr()).lower().replace(str(tmp_path), "")  # quiet
    assert (folder / "metrics.csv").read_text().startswith("step,train/loss")


def test_crash_and_resume_are_one_run_and_two_folders_are_two(tmp_path: Path) -> None:
    import wandb

    ids = []
    for folder in ("a", "a", "b"):
        loggers = build_loggers({"wandb": {}}, run_folder=tmp_path / folder, config={})
        run = loggers[1].run
        assert run is not None and run.id == run_id(tmp_path / folder)
        ids.append(run.id)
        if folder == "b":
            close_loggers(loggers)  # the others were left open, as after a crash
    assert ids[0] == ids[1] != ids[2] and wandb.run is None


def test_a_sweep_agents_run_id_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert run_id(tmp_path) == "given" and not (tmp_path / "wandb_id").exists()


def test_several_loggers_at_once_and_a_csv_always(tmp_path: Path) -> None:
    loggers = build_loggers({"tensorboard": {"folder": "events"}, "csv": True}, run_folder=tmp_path, config={})
    assert [type(logger).__name__ for logger in loggers] == ["MetricsCsv", "StagedTensorBoard"]
    log_metrics(loggers, {"eval/chair_i": 0.5}, 1)
    close_loggers(loggers)
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))
    assert (
        len(build_loggers({}, run_folder=tmp_path, config={}))
        == len(build_loggers(None, run_folder=tmp_path, config={}))
        == 1
    )
    assert log_pairs(loggers, []) == 0


def test_mlflow_has_parameters_curves_by_stage_and_one_run_however_often_it_is_resumed(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    store, config = f"sqlite:///{tmp_path / 'store.db'}", {"loss": {"beta": 0.1}, "paths": {"output_dir": "/here"}}
    for step in (1, 2):  # the second time goes on
        loggers = build_loggers(
            {"mlflow": {"uri": store, "experiment": "ours"}}, run_folder=tmp_path / "run", config=config
        )
        begin_stage(loggers, "align")
        for logger in loggers:
            logger.log_metrics({"train/loss": 0.7 / step}, step)
        log_metrics(loggers, {"eval/chair_i": 0.05})
        close_loggers(loggers)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("ours").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["loss/beta"] == "0.1" and not any("paths" in name for name in run.data.params)
    curve = client.get_metric_history(run.info.run_id, "align/train/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.7), (2, 0.35)]
    assert run.data.metrics["eval/chair_i"] == 0.05


def test_an_mlflow_server_that_is_not_there_costs_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    nowhere = {"mlflow": {"uri": "http://127.0.0.1:9"}}
    assert len(build_loggers(nowhere, run_folder=tmp_path, config={})) == 1 and "MLflow does not start" in caplog.text


def test_disabled_means_no_run_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert len(build_loggers({"wandb": {}}, run_folder=tmp_path, config={})) == 1


def test_wandb_that_cannot_start_does_not_stop_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loggers = build_loggers({"wandb": {"project": "not/allowed"}}, run_folder=tmp_path, config={})
    assert len(loggers) == 1 and "W&B does not start" in caplog.text
    log_metrics(loggers, {"x": math.pi}, 1)
    close_loggers(loggers)


def test_a_key_is_found_in_the_environment_or_in_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_wandb_key()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password xyz\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_wandb_key()


def test_a_pair_whose_image_is_gone_is_left_out_of_the_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = pairs(tmp_path, 2)
    (tmp_path / "0.png").unlink()
    loggers = build_loggers({"wandb": {}}, run_folder=tmp_path / "run", config={})
    assert log_pairs(loggers, made) == 1 and "s0 is not in the pairs table" in caplog.text
    close_loggers(loggers)


def test_views_named_by_a_spec_are_found_in_provenance() -> None:
    from parallax.reports.corrupted import view_of

    spec = ViewSpec("diffusion", {"noise_steps": 5}, 2)
    assert view_of(Response("a", provenance={"view": spec})) == spec
    assert (
        view_of(Response("a", provenance={"view": {"name": "diffusion", "params": {"noise_steps": 5}, "seed": 2}}))
        == spec
    )
    assert view_of(Response("a")) is None
