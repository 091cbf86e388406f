"""A local server that takes what `wandb sync` uploads and keeps it as W&B does: runs with their lines, files, artifacts.

W&B keeps a run's history as lines at offsets; a second file of the same run asks how many there are and goes on behind them.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reports.local_server import JsonHandler, listening

HISTORY, EVENTS, SUMMARY = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json"
PROJECT = {"id": "p", "name": "parallax", "entity": {"id": "e", "name": "me"}}


@dataclass
class SyncedRun:
    about: dict[str, Any] = field(default_factory=dict)  # upserted with: displayName, groupName, tags, config, …
    lines: dict[str, list[str]] = field(default_factory=dict)  # file → its lines
    files: dict[str, bytes] = field(default_factory=dict)  # name → content
    exit_codes: list[int] = field(default_factory=list)

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get(HISTORY, ())]

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.lines[SUMMARY][-1]))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as a dashboard looks it up, nested as it was given."""
        return {name: node["value"] for name, node in json.loads(self.about["config"]).items() if name != "_wandb"}


@dataclass
class Artifact:
    name: str
    kind: str
    run: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class Server:
    def __init__(self) -> None:
        self.address = ""
        self.runs: dict[str, SyncedRun] = {}
        self.artifacts: dict[str, Artifact] = {}  # id → artifact

    def sync(self, folders: Sequence[Path], home: Path) -> str:
        """`wandb sync <folders>` as a real process; returns what it said."""
        environment = {name: value for name, value in os.environ.items() if "WANDB" not in name}
        environment |= {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": "0" * 40, "WANDB_DIR": str(home)}
        environment |= {f"WANDB_{name}_DIR": str(home) for name in ("CACHE", "CONFIG", "DATA")}
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def answer(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        known = getattr(self, f"_{name}", None)
        return {"data": known(given) if known else {}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": {**PROJECT, "bucket": None}}
        counts = {f"{kind}LineCount": len(run.lines.get(file, ())) for kind, file in _KINDS.items()}
        tails = {f"{kind}Tail": json.dumps(run.lines.get(file, [])[-1:]) for kind, file in _KINDS.items()}
        kept = {"config": run.about["config"], "tags": run.about.get("tags"), "wandbConfig": json.dumps({"t": 1})}
        summary = {"summaryMetrics": run.lines.get(SUMMARY, ["{}"])[-1]}
        own = {"id": "b", "name": given["name"], "displayName": run.about.get("displayName"), "notes": None}
        return {"model": {**PROJECT, "bucket": {**own, **counts, **tails, **kept, **summary, "logLineCount": 0}}}

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], SyncedRun())
        run.about |= {name: value for name, value in given.items() if value is not None}
        own = {name: run.about.get(name) for name in ("name", "displayName", "config")}
        more = {"id": "b", "description": None, "sweepName": None, "historyLineCount": len(run.lines.get(HISTORY, ()))}
        return {"upsertBucket": {"bucket": {**own, **more, "project": PROJECT}, "inserted": True}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.address}/run/{given['run']}/{name}"} for name in given["files"]
        ]  # where a run's file goes
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        given = given["input"]
        number = f"a{len(self.artifacts)}"
        self.artifacts[number] = Artifact(given["artifactCollectionName"], given["artifactTypeName"], given["runName"])
        made = {"id": number, "state": "PENDING", "artifactSequence": {"id": f"s{number}", "latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        where = f"{self.address}/artifact/{given['artifactID']}/wandb_manifest.json"
        file = {
            "id": "f",
            "name": "wandb_manifest.json",
            "displayName": "manifest",
            "uploadUrl": where,
            "uploadHeaders": [],
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in given["input"]["artifactFiles"]:
            where = f"{self.address}/artifact/{file['artifactID']}/{file['name']}"
            node = {
                "id": "f",
                "name": file["name"],
                "displayName": file["name"],
                "uploadUrl": where,
                "uploadHeaders": [],
            }
            node |= {"uploadMultipartUrls": None, "storagePath": "s", "artifact": {"id": file["artifactID"]}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[given["artifactID"]].committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}

    def stream(self, run: SyncedRun, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            lines = run.lines.setdefault(name, [])
            lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
        if sent.get("complete"):
            run.exit_codes.append(int(sent["exitcode"]))

    def put(self, path: str, content: bytes) -> None:
        _, kind, owner, name = path.split("/", 3)
        files = self.runs[owner].files if kind == "run" else self.artifacts[owner].files
        files[name] = content


_KINDS = {"history": HISTORY, "events": EVENTS}


@contextmanager
def server() -> Iterator[Server]:
    """A running server; its `address` takes the place of https://api.wandb.ai."""
    here = Server()

    class Handler(JsonHandler):
        def do_PUT(self) -> None:
            here.put(self.path, self.body())
            self.say({})

        def do_POST(self) -> None:
            body = self.body()
            if self.path == "/graphql":
                asked = json.loads(body)
                named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                return self.say(here.answer(named[1] if named else "", asked.get("variables") or {}))
            if streamed := re.fullmatch(r"/files/.*/([^/]+)/file_stream", self.path):
                here.stream(here.runs[streamed[1]], json.loads(body))
            self.say({})

    with listening(Handler) as here.address:
        yield here
