"""Choices that do not go together once weights are sharded over processes or kept in fewer bits: a part of `combinations`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from parallax.settings.blame import Found
from parallax.settings.extras import install
from parallax.settings.places import COMMAND

SHARDED = ("fsdp", "fsdp2", "deepspeed")  # strategies that divide weights over processes


def sharded_stage(stage: dict[str, Any]) -> Found:
    """What a stage may not ask for while its weights are sharded over processes."""
    strategy = stage["trainer"]["strategy"]
    if strategy not in SHARDED:
        return
    reference, full = stage["reference"], not stage["lora"]["enabled"]
    if strategy == "deepspeed":
        yield from _deepspeed(stage)
    name = stage["optim"]["name"]
    if name != "adamw":
        yield (
            "optim",
            f"optim.name={name} does not go with trainer.strategy={strategy}: bitsandbytes keeps moments of whole weights, and "
            "here they are sharded over processes already. Use optim=adamw, or trainer=ddp.",
        )
    if strategy == "fsdp" and stage["trainer"]["precision"] == "64-true":
        yield (
            "trainer.precision",
            "trainer.precision=64-true is not known to Lightning's FSDP. Use trainer=fsdp2, or trainer.precision=auto.",
        )
    if stage["fit"] != "preference" or reference["mode"] != "live":
        return
    if full:
        yield (
            "reference",
            "reference=live with lora=none keeps a second copy of all weights in every process, which is what "
            f"trainer.strategy={strategy} is meant to avoid. Use reference=cached.",
        )


def _deepspeed(stage: dict[str, Any]) -> Found:
    """What DeepSpeed, or Lightning's strategy around it, cannot do."""
    trainer, other = stage["trainer"], "Use trainer=fsdp2, which divides the same"
    if find_spec("deepspeed") is None:
        yield (
            "trainer.strategy",
            "trainer.strategy=deepspeed needs DeepSpeed, and it is not installed. Use trainer=fsdp2, or install it: "
            f"{install('deepspeed')} (our extra `deepspeed`).",
        )
    if trainer["accelerator"] == "cpu":
        yield (
            "trainer.accelerator",
            f"trainer.accelerator=cpu does not go with trainer.strategy=deepspeed, which Lightning runs on GPUs only. {other}.",
        )
    if trainer["precision"] == "64-true":
        yield ("trainer.precision", f"trainer.precision=64-true is not known to DeepSpeed. {other}, or precision=auto.")
    if trainer["deepspeed"]["offload_parameters"] and trainer["deepspeed"]["stage"] != 3:
        yield (
            "trainer.deepspeed.offload_parameters",
            "trainer.deepspeed.offload_parameters=true needs sharded weights, and trainer.deepspeed.stage=2 divides none. "
            "Use trainer.deepspeed.stage=3.",
        )


def quantised(plain: dict[str, Any]) -> Found:
    """What does not go with a base in fewer bits, whatever the stages."""
    kind, merges = plain["model"]["quantization"], plain["task"]["name"] == "merge"
    if kind != "none" and (merges or plain["export"]["merged"]):
        yield (
            "model.quantization" if merges else "export.merged",
            f"An adapter is merged into whole weights, and model.quantization={kind} has none. Merge afterwards: "
            f"{COMMAND} task=merge adapter=<folder> model.quantization=none.",
        )


def quantised_stage(stage: dict[str, Any], kind: str) -> Found:
    """What a stage that trains on a base in fewer bits may not ask for."""
    if kind == "none":
        return
    trainer = stage["trainer"]
    if not stage["lora"]["enabled"]:
        yield (
            "model.quantization",
            f"model.quantization={kind} keeps weights in a form that cannot be trained, and lora=none trains them. Use LoRA, or "
            "model.quantization=none.",
        )
    if trainer["strategy"] in SHARDED:
        yield (
            "model.quantization",
            f"model.quantization={kind} packs weights in a form that trainer.strategy={trainer['strategy']} cannot divide over "
            "processes. Use trainer=ddp (each process holds the small copy), or model.quantization=none.",
        )
    if trainer["precision"] in ("bf16-true", "16-true", "64-true"):
        yield (
            "trainer.precision",
            f"trainer.precision={trainer['precision']} converts all weights, and those of model.quantization={kind} must stay as "
            "they are. Use trainer.precision=auto and model.dtype for what is not quantised.",
        )
