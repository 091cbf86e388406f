"""`task=dashboard`: built with the real package, written, read back, and saved to a local stand-in for W&B's server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from parallax.settings import dashboard_keys
from parallax.settings.check import find_problems
from parallax.settings.errors import ConfigError
from parallax.tasks import dashboard
from parallax.tasks.dashboard import _models, read_specification
from tests.reports.dashboard_names import names_in, panels_in
from tests.reports.wandb_stand_in import StandIn, stand_in

Compose = Callable[..., DictConfig]
SETTINGS = {"aug.noise_steps", "lora.r", "loss.beta"}
TYPES = {
    "Bar Chart",
    "Scatter Plot",
    "Parallel Coordinates Plot",
    "Parameter Importance",
    "Run History Line Plot",
    "Weave",
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODE", "API_KEY", "BASE_URL", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    import wandb

    with stand_in() as here:
        monkeypatch.setenv("WANDB_BASE_URL", here.address)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield here
        wandb.teardown()


@pytest.fixture
def made(compose_config: Compose, tmp_path: Path) -> Callable[..., Path]:
    """Runs the task with more words; returns the specification's file."""

    def make(*words: str) -> Path:
        path = tmp_path / "dashboard.json"
        dashboard.run(
            compose_config("task=dashboard", f"task.file={path}", f"paths.output_dir={tmp_path / 'run'}", *words)
        )
        return path

    return make


def test_offline_the_specification_is_a_file_and_how_to_apply_it_is_said(
    made: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = made()
    said = capsys.readouterr().out
    assert f"{path} (no W&B key was found)" in said and f"python run.py task=dashboard task.apply={path}" in said
    views = read_specification(path)
    for name, model in zip(("workspace", "report"), _models(views), strict=True):
        panels = panels_in(views[name])
        assert panels_in(model.model_dump(mode="json", by_alias=True, exclude_none=True)) == panels, (
            "the package reads it"
        )
        assert {panel["viewType"] for panel in panels} == TYPES
        points = {
            (panel["config"]["xAxis"], panel["config"]["yAxis"]) for panel in panels if "yAxis" in panel["config"]
        }
        for key in ("config:aug.value.noise_steps", "config:lora.value.r", "config:loss.value.beta"):
            assert {(key, "summary:margin"), (key, "summary:eval/chair_i")} <= points
        (lines,) = [panel["config"]["columns"] for panel in panels if panel["viewType"].startswith("Parallel")]
        assert (
            lines[0]["accessor"] == "config:aug.value.noise_steps" and lines[-1]["accessor"] == "summary:eval/chair_i"
        )
    found = names_in(views)
    assert found.settings == SETTINGS and found.tables == {"pairs", "examples"}
    text = json.dumps(views["report"], ensure_ascii=False)
    assert "aug.noise_steps: " in text, "the report says what the noise step is"


def test_panels_of_the_report_do_not_lie_over_each_other(made: Callable[..., Path]) -> None:
    views = json.loads(made().read_text())
    grids = [block["metadata"] for block in views["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == 7
    for grid in grids:
        taken: set[tuple[int, int]] = set()
        for panel in grid["panelBankSectionConfig"]["panels"]:
            at = panel["layout"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken and max(x for x, _ in cells) < 24
            taken |= cells


def test_only_a_group_and_other_metrics_when_asked(made: Callable[..., Path]) -> None:
    path = made(
        "task.group=sweep_alpha", "task.metrics=[eval/pope_accuracy]", "task.settings=[loss.alpha]", "task.tables=[]"
    )
    views = json.loads(path.read_text())
    found = names_in(views)
    assert found.settings == {"loss.alpha"} and not found.tables and "eval/chair_i" not in found.metrics
    (runs,) = views["workspace"]["spec"]["section"]["runSets"]
    assert runs["filters"]["filters"][0]["value"] == "sweep_alpha"
    assert runs["sort"]["keys"] == [{"key": {"section": "summary", "name": "eval/pope_accuracy"}, "ascending": False}]


def test_online_both_views_are_saved_and_a_second_time_replaced(
    made: Callable[..., Path], server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made("task.project=mine")
    said = capsys.readouterr().out
    assert server.projects == ["mine"] and len(server.views) == 2
    kinds = {sent["type"]: (number, sent) for number, sent in server.views.items()}
    number, report = kinds["runs"]
    assert report["entityName"] == "me" and report["projectName"] == "mine"
    assert f"report: {server.address}/me/mine/reports/" in said and number in said
    assert f"workspace: {server.address}/me/mine?nw=" in said
    views = json.loads(path.read_text())
    for kind, name in (("project-view", "workspace"), ("runs", "report")):
        assert json.loads(kinds[kind][1]["spec"]) == views[name]["spec"], "what was sent is what the file holds"
        assert views[name]["id"] == kinds[kind][0]
    made("task.project=mine", "task.settings=[optim.lr]")
    assert len(server.views) == 2 and server.projects == ["mine"]
    assert "config:optim.value.lr" in server.views[number]["spec"]


def test_what_was_written_offline_is_applied_to_the_letter(
    made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: StandIn
) -> None:
    with monkeypatch.context() as offline:
        offline.setenv("WANDB_MODE", "offline")
        path = made()
    edited = path.read_text().replace("What the settings do", "Mine")
    path.write_text(edited)
    made(f"task.apply={path}", f"task.file={tmp_path / 'unused.json'}")
    assert "Mine" in {sent["displayName"] for sent in server.views.values()} and not (tmp_path / "unused.json").exists()
    assert json.loads(edited)["report"]["spec"] == json.loads(path.read_text())["report"]["spec"]


def test_a_server_that_refuses_is_told_with_what_to_do(
    made: Callable[..., Path], server: StandIn, tmp_path: Path
) -> None:
    server.refuses = "permission denied"
    with pytest.raises(RuntimeError, match=r"permission denied.*task\.apply="):
        made()
    assert read_specification(tmp_path / "dashboard.json")


def test_what_cannot_be_done_is_said_in_words(
    made: Callable[..., Path], compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"task\.mode=online, but no W&B key was found.*later: python run\.py"):
        made("task.mode=online")
    (tmp_path / "other.json").write_text('{"workspace": {}}')
    with pytest.raises(ConfigError, match="is no specification of a dashboard"):
        made(f"task.apply={tmp_path / 'other.json'}")

    def said(*words: str) -> str:
        return " ".join(find_problems(compose_config("task=dashboard", *words)).values())

    assert said() == ""
    assert "Did you mean lora.r" in said("task.settings=[lora.rank]")
    assert "name at least one" in said("task.metrics=[]")
    assert "is no file" in said("task.apply=nowhere.json")
    monkeypatch.setattr(dashboard_keys, "PACKAGE", "wandb_workspaces_that_nobody_has")
    assert "pip install 'wandb-workspaces" in said()
