"""Choices that do not go together once weights are divided over processes or kept in fewer bits: a part of `combinations`."""

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


def quantised(plain: dict[str, Any]) -> Found:
    """What does not go with a base in fewer bits, whatever the stages."""
    kind, merges = plain["model"]["quantization"], plain["task"]["name"] == "merge"
    if kind != "none" and (merges or plain["export"]["merged"]):
        yield refused(
            "model.quantization" if merges else "export.merged",
            f"An adapter is merged into whole weights, and model.quantization={kind} has none. Merge afterwards: "
            "python run.py task=merge adapter=<folder> model.quantization=none.",
        )


def quantised_stage(stage: dict[str, Any], kind: str) -> Found:
    """What a stage that trains on a base in fewer bits may not ask for."""
    if kind == "none":
        return
    trainer = stage["trainer"]
    if not stage["lora"]["enabled"]:
        yield refused(
            "model.quantization",
            f"model.quantization={kind} keeps weights in a form that cannot be trained, and lora=none trains them. Use LoRA, or "
            "model.quantization=none.",
        )
    if trainer["strategy"] in SHARDED:
        yield refused(
            "model.quantization",
            f"model.quantization={kind} packs weights in a form that trainer.strategy={trainer['strategy']} cannot divide over "
            "processes. Use trainer=ddp (each process holds the small copy), or model.quantization=none.",
        )
    if trainer["precision"] in ("bf16-true", "16-true", "64-true"):
        yield refused(
            "trainer.precision",
            f"trainer.precision={trainer['precision']} converts all weights, and those of model.quantization={kind} must stay as "
            "they are. Use trainer.precision=auto and model.dtype for what is not quantised.",
        )
