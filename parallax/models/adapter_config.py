"""What an adapter's configuration may ask for: LoRA on the model as it is, at a size that its weights have.

peft builds a good deal more of the same file: other kinds of adapters, layers that are repeated, adapters that begin at certain
tokens, initial values that change the base. Then the model without its adapter is not the base, which the reference is, or the
settings are no part of the adapter's name (`adapter.adapter_digest`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from parallax.records.time_limit import TookTooLong, time_limit

SAYS_NOTHING = (  # about the function, or nothing that the names and shapes of the weights do not say
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "target_parameters", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern",
    "trainable_token_indices", "ensure_weight_tying", "init_lora_weights", "lora_dropout", "lora_bias", "bias", "fan_in_fan_out",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "megatron_core", "qalora_group_size",
)  # fmt: skip
IN_THE_NAME = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
KEEP_THE_BASE = (True, False, "gaussian", "orthogonal", "eva")  # initial values that leave the base's weights alone
TIMES = 8  # so many times the ranks of its weights may a configuration ask for
SECONDS = 10.0  # for matching all expressions with all names


def check_config(config: Any, ranks: Iterable[int], modules: Iterable[str]) -> None:
    """Raise ValueError, in words, for what peft would build and this program would not use rightly.

    Args:
        config: peft's, read from a file.
        ranks: of the weights in the adapter's file.
        modules: full names of the model's modules.
    """
    from peft import LoraConfig

    if type(config) is not LoraConfig:
        raise ValueError(f"its peft_type is {config.peft_type}; only LoRA adapters are read")
    usual = LoraConfig()
    for one in fields(LoraConfig):
        value = getattr(config, one.name)
        if one.name not in (*SAYS_NOTHING, *IN_THE_NAME) and value and value != getattr(usual, one.name):
            raise ValueError(f"it sets {one.name}, which makes more of it than LoRA on the model's layers")
    if not any(config.init_lora_weights is known or config.init_lora_weights == known for known in KEEP_THE_BASE):
        raise ValueError(
            f"it was trained with init_lora_weights={config.init_lora_weights!r}, which may change the base model's weights; "
            "save it once more with peft's path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )
    _check_numbers(config, TIMES * max(ranks, default=1))
    _check_expressions(config, modules)


def _check_numbers(config: Any, most: int) -> None:
    for rank in (config.r, *_values(config.rank_pattern, "rank_pattern")):
        if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= most:
            raise ValueError(f"a rank of it is {rank!r}; its weights allow whole numbers from 1 to {most}")
    for alpha in (config.lora_alpha, *_values(config.alpha_pattern, "alpha_pattern")):
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            raise ValueError(f"an alpha of it is {alpha!r}; it has to be a number")


def _values(pattern: object, name: str) -> list[Any]:
    if pattern is None:
        return []
    if not isinstance(pattern, Mapping):
        raise ValueError(f"its {name} is no mapping from names to numbers")
    return list(pattern.values())


def _check_expressions(config: Any, modules: Iterable[str]) -> None:
    """The regular expressions in it end, for every name of a module."""
    asked = [*(config.rank_pattern or ()), *(config.alpha_pattern or ())]
    asked += [text for text in (config.target_modules, config.exclude_modules) if isinstance(text, str)]
    names, expression = list(modules), ""
    try:
        with time_limit(SECONDS):
            for expression in asked:
                known = re.compile(rf"(?:.*\.)?(?:{expression})$")
                for name in names:
                    known.match(name)
    except TookTooLong:
        raise ValueError(f"its expression {expression[:80]!r} takes too long to match the model's modules") from None
    except re.error as error:
        raise ValueError(f"its expression {expression[:80]!r} cannot be read ({error})") from error
