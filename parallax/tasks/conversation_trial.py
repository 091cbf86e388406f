"""Whether the model's template and processor take conversations as the data has them, asked before weights are read.

A family that takes one image, or whose template has no place for a system text or earlier turns, would set every such sample
aside, one by one, after minutes of loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.inspected_prompts import Asked, prompt_facts
from parallax.models.encoding.token_counts import load_encoder
from parallax.settings.build import build
from parallax.settings.groups import Model, Stage

LOOKED_AT = 8  # samples
KINDS = ("preference_file", "columns", "llava_json")  # sources whose samples may be conversations


def refuse_conversations(stage: Stage, config: Mapping[str, Any]) -> None:
    """Raise ValueError where the first samples are all more than one image and one question, and the model takes none of them.

    Nothing is said of a model whose processor is not on this machine yet.
    """
    node: Any = stage.data
    if str(node["_target_"]).split(".")[-2] not in KINDS or node.get("parts") or node.get("streaming"):
        return
    limit = min(node.get("limit") or LOOKED_AT, LOOKED_AT)
    samples = list(build({**node, "limit": limit}, f"stages.{stage.name}.data"))
    asked = [Asked(sample.conversation(), ()) for sample in samples if sample.opening or len(sample.images) > 1]
    if not asked or len(asked) < len(samples):
        return
    try:
        facts = prompt_facts(load_encoder(Model.of(config["model"])), asked)
    except OSError:
        return
    told = {reason: count for reason, count in facts.refused.items() if reason in ("template", "bad_text")}
    if sum(told.values()) == len(asked):
        turns = max(len(one.conversation.messages) for one in asked)
        images = max(len(one.conversation.images) for one in asked)
        raise ValueError(
            f"model.path={config['model']['path']} takes none of the first {len(asked)} samples of data.path={node['path']}, "
            f"which have up to {images} images and {turns} messages each: {facts.why[0]}. Use a model that takes them; "
            "task=check_data looks at all of them"
        )
