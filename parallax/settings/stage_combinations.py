"""Choices about stages, rounds and what is scored that do not go together: the part of `combinations` about methods."""

from __future__ import annotations

from typing import Any

from parallax.settings.blame import Found
from parallax.settings.targets import fact


def kind_of_fit(stage: dict[str, Any]) -> Found:
    """What a supervised stage has and a preference stage has not, and the other way round."""
    name, supervised = stage["name"], stage["fit"] == "supervised"
    if not supervised:
        for key in ("infusion", "share", "keep"):
            if stage.get(key) is not None:
                yield (
                    f"stages.{name}.{key}",
                    f"stages.{name}.{key} belongs to supervised stages, and stages.{name}.fit=preference. Leave it out, or use "
                    f"stages.{name}.fit=supervised.",
                )
        return
    keep, proposer = stage.get("keep"), stage.get("proposer")
    if keep is not None and proposer is None:
        yield (
            f"stages.{name}.keep",
            f"stages.{name}.keep chooses among answers of the policy, and stages.{name}.proposer is null. Name a proposer, or "
            "leave keep out.",
        )
    if keep is None and proposer is not None and fact(proposer["_target_"], "undecided"):
        yield (
            f"stages.{name}.proposer",
            f"stages.{name} learns chosen answers, and {proposer['_target_'].rpartition('.')[2]} calls none so. Use "
            f"stages.{name}.keep with a judge, or another proposer.",
        )
    target = (stage.get("proposer") or {}).get("_target_", "")
    if fact(target, "chosen_is_given"):
        yield (
            f"stages.{name}.proposer",
            f"stages.{name} learns chosen answers, and those of {target.rpartition('.')[2]} are the data's own: use "
            f"stages.{name}.proposer=null.",
        )


def live_reference(stage: dict[str, Any]) -> Found:
    """Tokens that the policy chooses as it trains have no log-probs that could be kept beforehand."""
    name = stage["name"]
    target = stage["loss"]["_target_"]
    looks = fact(target, "looks_at_noise") and stage["fit"] == "preference"
    scorer, mode = stage["pairs"]["rejected_scorer"], stage["reference"]["mode"]
    if looks and stage.get("noise") is None:
        yield (
            "loss",
            f"{target.rpartition('.')[2]} looks at the image under noise while training, and stages.{name}.noise names no view. "
            "Use method=povid, or another loss.",
        )
    if stage.get("noise") is not None and not looks:
        yield (
            f"stages.{name}.noise",
            f"stages.{name}.noise shows the image under noise, and no loss looks at it: use loss=povid.",
        )
    if looks and stage["pairs"]["num_negatives"] > 1:
        yield (
            "pairs.num_negatives",
            f"pairs.num_negatives={stage['pairs']['num_negatives']} does not go with {target.rpartition('.')[2]}, which takes "
            "one rejected text and adds one choice under noise. Use pairs.num_negatives=1.",
        )
    if looks and mode == "cached":
        yield (
            "reference.mode",
            f"reference.mode=cached keeps log-probs of given tokens, and {target.rpartition('.')[2]} scores tokens the policy "
            "chooses as it trains. Use reference=live.",
        )
    if scorer == "label" or stage["fit"] != "preference":
        return
    if looks or not fact(target, "needs_reference"):
        yield (
            "pairs.rejected_scorer",
            f"pairs.rejected_scorer={scorer} does nothing sensible with {target.rpartition('.')[2]}. "
            "Use pairs.rejected_scorer=label.",
        )
    elif mode == "cached":
        yield (
            "pairs.rejected_scorer",
            f"pairs.rejected_scorer={scorer} scores tokens that policy and reference choose as training goes on, and "
            "reference.mode=cached keeps log-probs of given tokens. Use reference=live, or pairs.rejected_scorer=label.",
        )


def between_stages(plain: dict[str, Any], stages: list[dict[str, Any]]) -> Found:
    """One adapter goes through all stages and rounds."""
    rounds = plain["method"]["rounds"]
    for stage in stages[1:]:
        mine, first = stage["lora"], stages[0]["lora"]
        keys = ["enabled", "r", *sorted(set(mine) | set(first))]  # alpha follows r unless it is given
        if (key := next((key for key in keys if mine.get(key) != first.get(key)), None)) is not None:
            yield (
                f"stages.{stage['name']}.lora.{key}",
                f"stages.{stage['name']}.lora.{key}={mine.get(key)} cannot differ from the {first.get(key)} of stage "
                f"{stages[0]['name']}: all stages train the same adapter. Set lora for all of them.",
            )
    for stage in stages:
        if stage.get("start") == "base" and not stage["lora"].get("enabled"):
            yield (
                f"stages.{stage['name']}.start",
                f"stages.{stage['name']}.start=base takes the adapter back to where it began, and with lora=none there is none. "
                f"Use stages.{stage['name']}.start=previous, or LoRA.",
            )
    full = not stages[0]["lora"].get("enabled") if stages else False
    several = rounds > 1 or len(stages) > 1
    for place, stage in enumerate(stages):
        if not (full and several and stage["fit"] == "preference") or stage["reference"]["source"] == "previous_stage":
            continue
        if stage["reference"]["source"] == "initial" and (rounds > 1 or place > 0):
            yield (
                "reference.source",
                "reference.source=initial needs the first weights in later stages and rounds, and with lora=none each stage "
                "only keeps those it began with. Use reference.source=previous_stage, or LoRA.",
            )
        if stage["reference"]["source"] == "previous_round" and place > 0:
            yield (
                "reference.source",
                f"reference.source=previous_round needs the weights the round began with in stage {stage['name']}, and with "
                "lora=none each stage only keeps those it began with. Use reference.source=previous_stage, or LoRA.",
            )
