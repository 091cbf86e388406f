"""The W&B workspace and report of the project, saved online, or written to a file that says the same.

The specification of a dashboard: a JSON file that holds W&B's own description of the workspace and the report.

It can be read, edited and sent later, from another machine. What is sent is what the file holds, to the letter. Once sent, it
knows the ids W&B gave, so that sending again replaces the views instead of adding new ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from parallax.records.atomic import atomic_write_text
from parallax.records.plain_text import say
from parallax.reports.dashboard import Wanted, build_report, build_workspace
from parallax.reports.run_log import run_log
from parallax.reports.wandb_before import wandb_mode
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Task
from parallax.settings.places import COMMAND

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    metrics: Sequence[str]
    settings: Sequence[str]
    tables: Sequence[str]
    group: str | None
    file: str
    apply: str | None


def run(cfg: DictConfig) -> None:
    """Build both (or read `task.apply`), write them to `task.file`, and save them where W&B can be reached.

    Raises:
        ConfigError: `task.apply` holds no specification, or W&B could not be reached though `task.mode=online` asks for it.
        RuntimeError: W&B did not take the views; the file has them.
    """
    task: dict[str, Any] = OmegaConf.to_container(cfg.task, resolve=True)  # type: ignore[assignment]
    path = Path(task["apply"] or task["file"])
    with run_log(Path(str(cfg.paths.output_dir))):
        if task["apply"]:
            try:
                views = read_specification(path)
            except ValueError as error:
                raise ConfigError(f"task.apply: {error}") from error
        else:
            views = _built(task, cfg)
            write_specification(views, path)
        again = f"{COMMAND} task=dashboard task.apply={path}"
        mode, why = wandb_mode({"mode": task["mode"]})
        if mode != "online":
            if task["mode"] == "online":
                raise ConfigError(
                    f"task.mode=online, but {why or 'WANDB_MODE says offline'}. The specification is in {path}; later: {again}"
                )
            say(f"specification of the dashboard in {path}" + (f" ({why})" if why else ""))
            say(f"to apply it where W&B can be reached: wandb login, then {again}")
            return
        try:
            saved = save_online(views, path)
        except Exception as error:  # of the network, of the key, of the project: in W&B's own words
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise RuntimeError(f"W&B did not take the dashboard ({reason}). It is in {path}; later: {again}") from error
        say("\n".join(f"{name}: {address}" for name, address in saved.items()))


def _built(task: dict[str, Any], cfg: DictConfig) -> dict[str, Any]:
    metrics, settings, tables = (tuple(task[name]) for name in ("metrics", "settings", "tables"))
    wanted = Wanted(task["project"], task["entity"] or "", metrics, settings, tables, task["group"])
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    return specification(build_workspace(wanted), build_report(wanted, config))


VIEWS = ("workspace", "report")


def specification(workspace: Workspace, report: Report) -> dict[str, Any]:
    """Both views as plain data, as W&B's server takes them."""
    views = {"workspace": workspace._to_model(), "report": report._to_model()}
    plain = {name: view.model_dump(mode="json", by_alias=True, exclude_none=True) for name, view in views.items()}
    return {"wandb-workspaces": version("wandb-workspaces"), **plain}


def write_specification(views: dict[str, Any], path: Path) -> None:
    """Write it, keeping the ids that W&B gave to the views of a former file for the same project."""
    path.parent.mkdir(parents=True, exist_ok=True)
    former = read_specification(path) if path.is_file() else None
    if former is not None and _place(former)[1] == _place(views)[1] and _place(views)[0] in ("", _place(former)[0]):
        _settle(views, _place(former)[0])
        for view in VIEWS:
            views[view] |= {name: former[view].get(name) or views[view].get(name) or "" for name in ("id", "name")}
    atomic_write_text(path, json.dumps(views, indent=1, ensure_ascii=False) + "\n")


def read_specification(path: Path) -> dict[str, Any]:
    """Read a file back. Raises ValueError when it holds no specification that the installed package understands."""
    from pydantic import ValidationError

    try:
        views: dict[str, Any] = json.loads(path.read_text("utf-8"))
        _models(views)
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is no specification of a dashboard ({reason}); {COMMAND} task=dashboard makes one"
        ) from error
    return views


def save_online(views: dict[str, Any], path: Path) -> dict[str, str]:
    """Send both views to W&B and note in the file `path` the ids they got. Returns view → address.

    A project that does not exist yet is made. Views that have an id are replaced.
    """
    import wandb
    from wandb_workspaces._graphql import execute_graphql, get_app_url
    from wandb_workspaces.reports.v2 import gql
    from wandb_workspaces.reports.v2.internal import _generate_name
    from wandb_workspaces.workspaces import internal

    api = wandb.Api()
    _settle(views, _place(views)[0] or str(api.default_entity))
    entity, project = _place(views)
    if project not in {known.name for known in api.projects(entity)}:
        api.create_project(project, entity)
    for view, kind, new_name in (
        ("workspace", "project-view", internal._generate_view_name),
        ("report", "runs", _generate_name),
    ):
        sent = {
            "id": views[view].get("id") or None, "name": views[view].get("name") or new_name(), "type": kind,
            "entityName": entity, "projectName": project, "displayName": views[view]["displayName"],
            "description": views[view].get("description", ""), "spec": json.dumps(views[view]["spec"]),
        }  # fmt: skip
        saved = execute_graphql(api, gql.upsert_view, sent)["upsertView"]["view"]
        views[view] |= {"id": saved["id"], "name": saved["name"]}
        write_specification(views, path)
    home = f"{get_app_url(api).rstrip('/')}/{entity}/{project}"
    shown = internal._internal_name_to_url_query_str(views["workspace"]["name"])
    title = views["report"]["displayName"].replace(" ", "-")
    return {"workspace": f"{home}?nw={shown}", "report": f"{home}/reports/{title}--{views['report']['id']}"}


def _models(views: Mapping[str, Any]) -> tuple[Any, Any]:
    """The views as the package's own objects, which check them."""
    from wandb_workspaces.reports.v2.internal import ReportViewspec
    from wandb_workspaces.workspaces.internal import View

    return View.model_validate(views["workspace"]), ReportViewspec.model_validate(views["report"])


def _place(views: Mapping[str, Any]) -> tuple[str, str]:
    """(entity, project); the entity is "" until W&B was asked for it."""
    return str(views["workspace"]["entity"]), str(views["workspace"]["project"])


def _settle(views: Mapping[str, Any], entity: str) -> None:
    views["workspace"]["entity"] = views["report"]["project"]["entityName"] = entity
