"""Choices that do not go together, each refused with the reason and the way out."""

from __future__ import annotations

from typing import Any

from parallax.settings.blame import Found
from parallax.settings.many_processes import SHARDED, quantised, quantised_stage, sharded_stage
from parallax.settings.stage_combinations import between_stages, kind_of_fit, live_reference
from parallax.settings.targets import fact, parts_in

INFUSED = ("{description}", "{question}")


def combination_problems(plain: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, str]:
    """Dotted key → sentence. `plain` is the resolved configuration, `stages` what `resolve_stages` gives for it."""
    found: dict[str, str] = {}
    for key, sentence in _everywhere(plain):
        found.setdefault(key, sentence)
    for stage in stages:
        for key, sentence in (
            *_stage(stage, plain),
            *kind_of_fit(stage),
            *live_reference(stage),
            *sharded_stage(stage),
        ):
            found.setdefault(key, sentence)
    for stage in stages if plain["task"]["name"] == "align" else ():
        for key, sentence in quantised_stage(stage, plain["model"]["quantization"]):
            found.setdefault(key, sentence)
    for key, sentence in between_stages(plain, stages):
        found.setdefault(key, sentence)
    return found


def _everywhere(plain: dict[str, Any]) -> Found:
    model, trainer, evaluation = plain["model"], plain["trainer"], plain["evaluation"]
    yield from quantised(plain)
    yield from _ordered(model, "model", "min_pixels", "max_pixels")
    if trainer["accelerator"] == "cpu":
        if model["attention"] == "flash_attention_2":
            yield (
                "model.attention",
                "model.attention=flash_attention_2 needs a GPU, and trainer.accelerator=cpu. Use model.attention=auto.",
            )
        if model["attention"] == "flex_attention" and plain["task"]["name"] == "align":
            yield (
                "model.attention",
                "model.attention=flex_attention cannot be trained with on a CPU, and trainer.accelerator=cpu. Use "
                "model.attention=auto.",
            )
        if model["dtype"] == "float16":
            yield ("model.dtype", "model.dtype=float16 needs a GPU, and trainer.accelerator=cpu. Use model.dtype=auto.")
    if model["attention"] == "flash_attention_2" and model["dtype"] == "float32":
        yield (
            "model.attention",
            "model.attention=flash_attention_2 works in bfloat16 and float16, and model.dtype=float32. "
            "Use model.dtype=bfloat16 or model.attention=sdpa.",
        )
    if model["attention"] == "flash_attention_2" and model["layout"] == "shared":
        yield (
            "model.layout",
            "model.layout=shared needs an attention that takes masks, and model.attention=flash_attention_2 takes none. "
            "Use model.attention=auto or model.layout=separate.",
        )
    if model["attention"] == "flex_attention" and model["layout"] == "separate":
        yield (
            "model.attention",
            "model.attention=flex_attention is for prompts shared between responses, and model.layout=separate shares none. "
            "Use model.layout=auto or model.attention=auto.",
        )
    if model["train_projector"] and model["feature_cache"] in ("memory", "disk"):
        yield (
            "model.feature_cache",
            f"model.feature_cache={model['feature_cache']} would keep image features that model.train_projector=true changes. "
            "Use model.feature_cache=none.",
        )
    template = evaluation["describe_template"]
    if evaluation["describe_and_respond"] and not all(template.count(word) == 1 for word in INFUSED):
        yield (
            "evaluation.describe_template",
            f"evaluation.describe_template={template!r} lacks a place: it must hold {' and '.join(INFUSED)}, each once.",
        )
    if plain["task"]["name"] in ("evaluate", "compare_adapters") and not _measured(plain):
        yield (
            "evaluation.suites",
            f"task={plain['task']['name']} has nothing to evaluate: choose suites, such as evaluation=shapes.",
        )
    if evaluation["every_n_steps"] and not evaluation["suites"]:
        yield (
            "evaluation.every_n_steps",
            f"evaluation.every_n_steps={evaluation['every_n_steps']} has nothing to evaluate: choose suites, such as "
            "evaluation=shapes.",
        )
    if evaluation["monitor"] is not None and not evaluation["every_n_steps"]:
        yield (
            "evaluation.monitor",
            f"evaluation.monitor={evaluation['monitor']} is watched while training, and evaluation.every_n_steps is null. "
            "Set evaluation.every_n_steps.",
        )
    if evaluation["patience"] is not None and evaluation["monitor"] is None:
        yield (
            "evaluation.patience",
            f"evaluation.patience={evaluation['patience']} has no metric to wait for: set evaluation.monitor, such as "
            "evaluation.monitor=pope_accuracy.",
        )
    wandb = plain.get("logger", {}).get("wandb") or {}
    if wandb.get("log_model") and wandb.get("mode") in ("offline", "disabled"):
        yield (
            "logger.wandb.log_model",
            f"logger.wandb.log_model=true uploads the adapter, and logger.wandb.mode={wandb['mode']} uploads nothing. "
            "Use mode=online, or log_model=false and `wandb sync` later.",
        )


def _measured(plain: dict[str, Any]) -> bool:
    """Whether there is anything to evaluate; a comparison needs answers of our own."""
    evaluation = plain["evaluation"]
    return bool(evaluation["suites"] or (plain["task"]["name"] == "evaluate" and evaluation["harnesses"]))


def _stage(stage: dict[str, Any], plain: dict[str, Any]) -> Found:
    yield from _loss(stage)
    yield from _control(stage)
    yield from _views(stage)
    yield from _data(stage)
    yield from _judge(stage)
    yield from _reference(stage)
    yield from _lora(stage["lora"])
    yield from _generation(stage["generation"])
    yield from _server(stage, plain["model"]["family"])
    yield from _trainer(stage["trainer"])
    yield from _ordered(stage["pairs"], "pairs", "min_chars", "max_chars")


def _loss(stage: dict[str, Any]) -> Found:
    negatives = stage["pairs"]["num_negatives"]
    if negatives > 1 and stage["fit"] == "preference":
        for target in parts_in(stage["loss"]):
            one_sided = stage["loss"].get("side") == "rejected" and target == stage["loss"]["_target_"]
            if fact(target, "pairs_only") or one_sided:
                name = target.rpartition(".")[2]
                yield (
                    "pairs.num_negatives",
                    f"pairs.num_negatives={negatives} does not go with {name}, which is defined for one rejected answer. "
                    "Use loss=multi_negative or loss=stic, or pairs.num_negatives=1.",
                )


def _control(stage: dict[str, Any]) -> Found:
    negatives = stage["pairs"]["num_negatives"]
    if stage["pairs"]["control"] == "swapped" and negatives > 1:
        yield (
            "pairs.control",
            f"pairs.control=swapped exchanges one chosen and one rejected answer, and pairs.num_negatives={negatives}. "
            "Use pairs.num_negatives=1.",
        )


def _views(stage: dict[str, Any]) -> Found:
    aug, negatives = stage["aug"], stage["pairs"]["num_negatives"]
    if fact(aug["_target_"], "one_view_each") and "views" in aug and negatives > len(aug["views"]):
        yield (
            "aug.views",
            f"aug.views has {len(aug['views'])} views and pairs.num_negatives={negatives} asks for a view each. "
            f"Add views, or set pairs.num_negatives={len(aug['views'])} or less.",
        )


def _data(stage: dict[str, Any]) -> Found:
    if stage["fit"] != "preference":
        return
    given = stage.get("proposer") is not None and fact(stage["proposer"]["_target_"], "chosen_is_given")
    if given and fact(stage["data"]["_target_"], "has_answers") is False:
        yield (
            "data",
            "This method prefers the data's own answers, and images alone have none. Use data with answers, such as "
            "data=llava_json data.path=…, or a method that writes its own, such as method=seva.",
        )
    has_pairs = fact(stage["data"]["_target_"], "holds_pairs")
    takes_pairs = stage.get("proposer") is None or fact(stage["proposer"]["_target_"], "takes_pairs")
    if has_pairs and not takes_pairs:
        yield (
            "data",
            "data=preference_file holds ready-made pairs, and this method proposes its own. Use method=dpo_file.",
        )
    if takes_pairs and not has_pairs:
        yield ("data", "This method takes ready-made pairs: use data=preference_file data.path=…, or another method.")
    if has_pairs and stage["pairs"]["refresh"] != "never":
        yield (
            "pairs.refresh",
            f"pairs.refresh={stage['pairs']['refresh']} builds pairs again, and data=preference_file gives them ready-made. "
            "Use pairs.refresh=never.",
        )


def _judge(stage: dict[str, Any]) -> Found:
    """Which judges can score what which proposers bring."""
    if (stage["fit"] != "preference" and stage.get("keep") is None) or stage.get("proposer") is None:
        return
    judge, proposer = stage["judge"], stage["proposer"]
    kind, tree = judge["_target_"].rpartition(".")[2], fact(proposer["_target_"], "makes_trees")
    if fact(judge["_target_"], "needs_trees") and not tree:
        yield (
            "judge",
            f"{kind} scores sentence trees, and this method makes none. Use method=csr, or another judge.",
        )
    if tree and fact(judge["_target_"], "scores_leaves") is False:
        yield (
            "judge",
            f"judge={kind} cannot score the leaves of a sentence tree. Use judge=clip_calibrated, or another method.",
        )
    if fact(judge["_target_"], "judges_by_role") and fact(proposer["_target_"], "undecided"):
        yield (
            "judge",
            f"{kind} knows no better one among samples. Use judge=self_critic or judge=claims, or another method.",
        )
    if judge.get("image_weight") and judge.get("image_text", judge) is None:
        yield (
            "judge.image_text",
            f"judge.image_weight={judge['image_weight']} needs judge.image_text, a CLIP-like model. "
            "Use judge.image_weight=0 to do without.",
        )
    if tree and proposer.get("prune_from", 1) < proposer.get("keep_top", 0) + proposer.get("keep_bottom", 0):
        yield (
            f"stages.{stage['name']}.proposer.prune_from",
            f"prune_from={proposer['prune_from']} is less than keep_top + keep_bottom: a level would be pruned to more "
            "than it has. Raise prune_from.",
        )


def _reference(stage: dict[str, Any]) -> Found:
    full = not stage["lora"]["enabled"]
    if stage["pairs"]["refresh"] != "never" and full and stage["reference"]["mode"] == "cached":
        yield (
            "pairs.refresh",
            f"pairs.refresh={stage['pairs']['refresh']} needs reference log-probs of new pairs while training goes on, and "
            "with lora=none the weights that would give them are gone by then. Use reference=live, which keeps a frozen "
            "copy of the model in memory, or pairs.refresh=never.",
        )


def _lora(lora: dict[str, Any]) -> Found:
    if not lora["enabled"]:
        for key in sorted(set(lora) - {"enabled"}):
            yield (
                f"lora.{key}",
                f"lora.{key}={lora[key]} is set, and lora=none has no adapter. Leave one of the two out.",
            )


TILED = (
    "llava_next",
    "llava_onevision",
    "internvl",
    "smolvlm",
    "idefics3",
)  # families whose processors cut images into tiles


def _server(stage: dict[str, Any], family: str | None) -> Found:
    """What a server cannot be asked."""
    generation, proposer = stage["generation"], (stage.get("proposer") or {}).get("_target_", "")
    if generation["backend"] != "server":
        if "url" in generation:
            yield (
                "generation.url",
                "generation.url belongs to generation=server. Leave it out, or use generation=server.",
            )
        return
    if "url" not in generation:
        yield ("generation.backend", "generation.backend=server lacks an address. Use generation=server.")
    if stage["judge"].get("by") == "probability":
        yield (
            "judge.by",
            "judge.by=probability reads the policy's own probabilities, and generation=server gives whole answers. "
            "Use judge.by=words, or generation=transformers.",
        )
    if fact(proposer, "makes_trees"):
        yield (
            "generation.backend",
            "generation=server gives whole answers, and this method looks for them sentence by sentence in the policy's own "
            "probabilities. Use generation=transformers.",
        )
    if stage["pairs"]["refresh"] != "never" and not stage["lora"]["enabled"]:
        yield (
            "generation.backend",
            f"pairs.refresh={stage['pairs']['refresh']} asks the policy as it then is, and with lora=none a server cannot take "
            "over what it has learned. Use generation=transformers.",
        )
    noisy = any(fact(target, "acts_on") == "tensor" for target in parts_in(stage["aug"]))
    if family in TILED and noisy:
        yield (
            "generation.backend",
            "generation=server is sent pictures, and this view changes the normalised tiles that the model's processor makes of "
            "one. Use generation=transformers, or a view of the image itself such as aug=low_resolution.",
        )


def _generation(generation: dict[str, Any]) -> Found:
    if generation["temperature"] == 0 and generation["top_p"] != 1:
        yield (
            "generation.top_p",
            f"generation.top_p={generation['top_p']} does nothing while generation.temperature=0 (greedy). "
            "Set a temperature above 0, or generation.top_p=1.",
        )


def _trainer(trainer: dict[str, Any]) -> Found:
    if trainer["max_steps"] == 0:
        yield ("trainer.max_steps", "trainer.max_steps=0 is not allowed: it must be 1 or more, or -1 for no limit.")
    devices = trainer["devices"]
    processes = devices * trainer["num_nodes"] if isinstance(devices, int) else None
    if processes and trainer["batch_size"] < processes:
        yield (
            "trainer.batch_size",
            f"trainer.batch_size={trainer['batch_size']} pairs cannot be shared by {processes} processes (trainer.devices × "
            f"trainer.num_nodes): each needs at least one. Use trainer.batch_size={processes} or more.",
        )
    if trainer["find_batch_size"] and trainer["strategy"] in SHARDED:
        yield (
            "trainer.find_batch_size",
            f"trainer.find_batch_size=true does not go with trainer.strategy={trainer['strategy']}: processes that share weights "
            "cannot try sizes on their own. Use trainer.find_batch_size=false; the line at the start of a fit says what fits.",
        )
    if trainer["accelerator"] == "cpu" and trainer["precision"].startswith("16"):
        yield (
            "trainer.precision",
            f"trainer.precision={trainer['precision']} needs a GPU, and trainer.accelerator=cpu. "
            "Use 32-true or bf16-mixed.",
        )


def _ordered(group: dict[str, Any], path: str, low: str, high: str) -> Found:
    if group[low] is not None and group[high] is not None and group[low] > group[high]:
        yield (
            f"{path}.{low}",
            f"{path}.{low}={group[low]} is more than {path}.{high}={group[high]}; swap or change them.",
        )
