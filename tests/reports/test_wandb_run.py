"""W&B when things go wrong (servers that hang, folders that cannot be written, runs that crash), axes of stages, lineage."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parallax.reports import artifacts, wandb_before, wandb_run
from parallax.reports.loggers import begin_stage, build_loggers, close_loggers, log_metrics
from parallax.reports.wandb_run import RunLogger
from tests.reports import wandb_file

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("MODE", "RUN_ID", "SWEEP_ID", "API_KEY", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb-home"))
    yield
    import wandb

    wandb.finish()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(50)
    held: list[Any] = []

    def accept() -> None:
        while True:
            try:
                held.append(listening.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()


def said_about_wandb(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "W&B" in r.getMessage() and r.name.startswith("parallax")]


def test_a_server_that_hangs_costs_one_line_and_training_logs_offline(
    silent_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_before, "ANSWER_SECONDS", 0.3)
    with caplog.at_level(logging.INFO):
        loggers = build_loggers({"wandb": {"mode": "auto"}}, run_folder=tmp_path, config={"a": 1})
    (line,) = said_about_wandb(caplog)
    assert "does not answer" in line and "goes offline" in line and "wandb sync" in line
    loggers[1].log_metrics({"train/loss": 0.5}, 3)
    close_loggers(loggers)
    rows = wandb_file.history(wandb_file.only_file(tmp_path))
    assert [(row["trainer/global_step"], row["train/loss"]) for row in rows] == [(3, 0.5)]
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()]


@pytest.mark.slow
def test_a_server_that_answers_and_then_hangs_is_left_within_a_minute(
    silent_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_before, "_silence", lambda: "")
    monkeypatch.setattr(wandb_run, "START_SECONDS", 5)
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        loggers = build_loggers({"wandb": {"mode": "online"}}, run_folder=tmp_path, config={})
    loggers[1].log_metrics({"train/loss": 0.5}, 3)
    close_loggers(loggers)
    assert time.monotonic() - began < 60 and len(said_about_wandb(caplog)) == 1
    assert wandb_file.history(wandb_file.only_file(tmp_path))[0]["train/loss"] == 0.5


def test_no_server_at_all_means_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    mode, why = wandb_before.wandb_mode({"mode": "online"})
    assert mode == "offline" and "127.0.0.1:9 does not answer" in why
    monkeypatch.delenv("WANDB_API_KEY")
    assert wandb_before.wandb_mode({"mode": "auto"}) == ("offline", "no W&B key was found")
    assert wandb_before.wandb_mode({"mode": "offline"}) == ("offline", "")


def test_wandb_that_cannot_write_is_left_out_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**options: Any) -> None:
        raise OSError(28, "No space left on device")

    import wandb

    monkeypatch.setattr(wandb, "init", full)
    loggers = build_loggers({"wandb": {"mode": "offline"}}, run_folder=tmp_path, config={})
    assert len(loggers) == 1
    (line,) = said_about_wandb(caplog)
    assert "No space left on device" in line and "goes on without it" in line


class Run:
    """A W&B run that notes what it is told; it fails from call `fails_at` on."""

    def __init__(self, *, offline: bool = False, fails_at: int = 10**6) -> None:
        self.offline, self.fails_at, self.id, self.calls = offline, fails_at, "abc", list[Any]()
        self.summary: dict[str, Any] = {}
        self.settings = SimpleNamespace(mode="online")
        self.metrics: list[tuple[str, dict[str, Any]]] = []

    def _note(self, kind: str, value: Any) -> None:
        if len(self.calls) >= self.fails_at:
            raise OSError(28, "No space left on device")
        self.calls.append((kind, value))

    def log(self, values: dict[str, Any]) -> None:
        self._note("log", values)

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics.append((name, options))

    def use_artifact(self, artifact: Any) -> None:
        self._note("use", artifact)

    def log_artifact(self, artifact: Any) -> None:
        self._note("make", artifact)


def logger_of(run: Run) -> RunLogger:
    logger = RunLogger.__new__(RunLogger)
    logger._experiment, logger.failed, logger.prefix = run, False, ""  # type: ignore[assignment]
    logger.before, logger.caught_up = None, set()
    return logger


def test_a_disk_that_fills_up_in_the_middle_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(fails_at=2)
    logger = logger_of(run)
    for step in range(5):
        logger.log_metrics({"train/loss": 1.0}, step)
    log_metrics([logger], {"eval/chair_i": 0.1})
    assert len(run.calls) == 2
    (line,) = said_about_wandb(caplog)
    assert "can no longer log" in line and "metrics.csv has everything" in line


def test_each_stage_has_an_axis_of_its_own_and_best_values_are_kept_across() -> None:
    run = Run()
    loggers: list[Any] = [logger_of(run)]
    loggers[0].log_metrics({"train/loss": 1.0}, 7)
    for name in ("round_1/align", "round_2/align"):
        begin_stage(loggers, name)
        loggers[0].log_metrics({"train/loss": 0.5, "eval/chair_i": 0.2}, 0)
    log_metrics(loggers, {"eval/chair_i": 0.1})
    logged = [values for _, values in run.calls]
    assert logged[0] == {"train/loss": 1.0, "trainer/global_step": 7}
    name = "round_2/align"
    second = {f"{name}/train/loss": 0.5, f"{name}/eval/chair_i": 0.2, f"{name}/step": 0, "best/chair_i": 0.2}
    assert logged[2] == second and logged[3] == {"eval/chair_i": 0.1, "best/chair_i": 0.1}
    assert (f"{name}/*", {"step_metric": f"{name}/step", "step_sync": True}) in run.metrics
    assert run.summary == {"eval/chair_i": 0.1}


def test_lineage_goes_from_policy_to_pairs_to_adapter_and_only_online(tmp_path: Path) -> None:
    for name in ("pairs/pairs.jsonl", "adapter/adapter_config.json", "adapter/weights.bin", "run/results.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def tell(run: Run, upload: bool) -> list[tuple[str, str, str, list[str]]]:
        loggers: list[Any] = [logger_of(run)]
        artifacts.note_policy(loggers, "tiny", "f" * 64, base="assets/tiny", adapter=None)
        artifacts.note_pairs(loggers, tmp_path / "pairs", {"key": "k" * 64, "kept": 3, "pair_set": "/x"})
        artifacts.note_adapter(loggers, tmp_path / "adapter", "a" * 64, stage="align", upload=upload)
        artifacts.note_results(loggers, tmp_path / "run")
        return [(how, made.type, made.name, sorted(made.manifest.entries)) for how, made in run.calls]

    pairs = ("pairs", f"pairs-{'k' * 16}", ["pairs.jsonl"])
    assert tell(Run(), upload=False) == [
        ("use", "policy", f"policy-{'f' * 16}", []),
        ("make", *pairs),
        ("use", *pairs),
        ("make", "model", f"adapter-{'a' * 16}", ["adapter_config.json"]),
        ("make", "results", "results-abc", ["results.json"]),
    ]
    assert tell(Run(), upload=True)[3][3] == ["adapter_config.json", "weights.bin"]
    assert tell(Run(offline=True), upload=True) == []


def test_wandb_waits_for_uploads_only_so_long(tmp_path: Path) -> None:
    loggers = build_loggers({"wandb": {"mode": "offline", "finish_timeout": 7}}, run_folder=tmp_path, config={})
    settings = loggers[1].experiment.settings  # type: ignore[attr-defined]
    assert settings.finish_timeout == 7
    close_loggers(loggers)


def test_tensorboard_keeps_stages_apart(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = build_loggers({"tensorboard": {"folder": "events"}}, run_folder=tmp_path, config={})
    for name in ("align", "infuse"):
        begin_stage(loggers, name)
        loggers[1].log_metrics({"train/loss": 1.0}, 0)
    close_loggers(loggers)
    read = EventAccumulator(str(tmp_path / "events"))
    read.Reload()
    assert set(read.Tags()["scalars"]) >= {"align/train/loss", "infuse/train/loss"}
