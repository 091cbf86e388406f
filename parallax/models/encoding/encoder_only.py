"""The encoder of a model without its weights: enough to tell how its prompts are written and how many tokens they take."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.loading import end_tokens, load_processor, loaded


def load_encoder(model: Mapping[str, Any]) -> PromptEncoder:
    """The encoder that the policy of the `model` group has, from files that are on this machine: nothing is downloaded.

    Raises FileNotFoundError or ValueError, in sentences.
    """
    from transformers import AutoConfig, GenerationConfig

    path = str(model["path"])
    config = loaded(path, AutoConfig, revision=model.get("revision") or "main", local_files_only=True)
    try:
        generation: Any = GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # a checkpoint without one takes what its configuration says
        generation = GenerationConfig.from_model_config(config)
    stand_in = SimpleNamespace(config=config, generation_config=generation)
    processor = load_processor(path, model, stand_in, local_files_only=True)
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return PromptEncoder(
        processor,
        end_token_ids=end_tokens(stand_in, processor.tokenizer),
        max_context=int(model.get("context") or limit or 2**31),
        image_pad=bool(model.get("image_pad")),
    )
