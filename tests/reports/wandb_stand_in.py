"""A local stand-in for W&B's server: answers what a dashboard's saving asks, and keeps what it was sent."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.reports.local_server import JsonHandler, listening


class StandIn:
    def __init__(self) -> None:
        self.address = ""
        self.projects: list[str] = []
        self.views: dict[str, dict[str, Any]] = {}  # id → the variables it was sent with
        self.refuses = ""  # what it says instead of taking a view

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            if self.refuses:
                return {"errors": [{"message": self.refuses}]}
            number = given.get("id") or f"View{len(self.views)}"
            self.views[number] = given
            project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
            view = {
                "id": number,
                "name": given["name"],
                "type": given["type"],
                "project": project,
                "spec": given["spec"],
            }
            return {"data": {"upsertView": {"view": view, "inserted": not given.get("id")}}}
        if "upsertModel" in query:
            self.projects.append(given["input"]["name"])
            return {"data": {"result": {"project": {"id": "p"}, "model": {"id": "p"}, "inserted": True}}}
        if "models(" in query:
            more = {
                "entityName": given["entity"],
                "createdAt": "2026-01-31T12:00:00",
                "isBenchmark": False,
                "user": None,
            }
            known = [{"node": {"id": name, "name": name, **more}} for name in self.projects]
            return {"data": {"models": {"edges": known, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}
        viewer = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"data": {"viewer": viewer}}


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A running server; its `address` takes the place of https://api.wandb.ai."""
    here = StandIn()

    class Handler(JsonHandler):
        def do_POST(self) -> None:
            body = self.body()
            if self.path != "/graphql":  # W&B's own telemetry
                return self.say({})
            asked = json.loads(body)
            self.say(here.answer(asked["query"], asked.get("variables") or {}))

    with listening(Handler) as here.address:
        yield here
