"""Choices that do not go together once a run has several processes: the part of `combinations` about strategies."""

from __future__ import annotations

from typing import Any

from parallax.settings.refusals import Found, refused

SHARDED = ("fsdp", "fsdp2", "deepspeed")  # strategies that divide weights over processes


def sharded_stage(stage: dict[str, Any]) -> Found:
    """What a stage may not ask for while its weights are divided over processes."""
    strategy = stage["trainer"]["strategy"]
    if strategy not in SHARDED:
        return
    reference, full = stage["reference"], not stage["lora"]["enabled"]
    if stage["optim"]["name"] != "adamw":
        yield refused(
            "optim",
            f"optim.name={stage['optim']['name']} keeps moments in a form that cannot be divided over processes, and "
            f"trainer.strategy={strategy} divides them. Use optim=adamw; divided, its moments take little.",
        )
    if stage["pairs"]["refresh"] != "never":
        yield refused(
            "pairs.refresh",
            f"pairs.refresh={stage['pairs']['refresh']} lets the policy answer in the middle of a fit, while "
            f"trainer.strategy={strategy} has its weights divided over processes. Use trainer=ddp, method.rounds for rounds of "
            "pairs, or pairs.refresh=never.",
        )
    if stage["fit"] != "preference" or reference["mode"] != "live":
        return
    if full:
        yield refused(
            "reference",
            "reference=live with lora=none keeps a second copy of all weights in every process, which is what "
            f"trainer.strategy={strategy} is meant to avoid. Use reference=cached.",
        )
    elif reference["source"] != "initial":
        yield refused(
            "reference",
            f"reference.source={reference['source']} is an earlier adapter that would have to take the trained one's place "
            f"in every pass, and trainer.strategy={strategy} has that one divided over processes. Use reference=cached.",
        )
