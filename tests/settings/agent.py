"""What `wandb agent` starts for a point of a sweep file, built with W&B's own functions."""

from typing import Any

import yaml


def papers_grid(text: str) -> str:
    """The file with its last block, which is commented out, in the place of what it replaces."""
    head, _, block = text.rpartition("\n\n# ")
    lines = [line.removeprefix("# ") for line in f"# {block}".splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("metric:"))
    replaced = yaml.safe_load("\n".join(lines[first:]))
    return yaml.safe_dump({**yaml.safe_load(head), **replaced}, sort_keys=False)


def agent_words(content: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """What an agent starts for a point, built as `wandb/wandb_agent.py` builds it, with W&B's own functions."""
    from wandb.sdk.launch.sweeps import utils

    macros = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [content["program"]]}
    words: list[str] = []
    for word in map(str, utils.create_sweep_command(list(content["command"]))):
        words += macros[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    return words


def first_and_last(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Two points at the edges of the grid or space."""
    ends: list[dict[str, Any]] = [{}, {}]
    for key, node in content["parameters"].items():
        values = [node["value"]] if "value" in node else node.get("values") or [node["min"], node["max"]]
        ends[0][key], ends[1][key] = values[0], values[-1]
    return ends
