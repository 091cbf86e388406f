"""The encoder of a model without its weights: enough to tell how its prompts are written and how many tokens they take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.loading import context_of, end_tokens, load_processor, loaded
from parallax.settings.groups import Model


def load_encoder(model: Model) -> PromptEncoder:
    """The encoder that the policy of the `model` group has, from files that are on this machine: nothing is downloaded.

    Raises FileNotFoundError or ValueError, in sentences.
    """
    from transformers import AutoConfig, GenerationConfig

    path = model.path
    config = loaded(path, AutoConfig, revision=model.commit, local_files_only=True)
    try:
        generation: Any = GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # a checkpoint without one takes what its configuration says
        generation = GenerationConfig.from_model_config(config)
    stand_in = SimpleNamespace(config=config, generation_config=generation)
    processor = load_processor(path, model, stand_in, local_files_only=True)
    return PromptEncoder(
        processor,
        end_token_ids=end_tokens(stand_in, processor.tokenizer),
        max_context=context_of(model, config),
        image_pad=model.image_pad,
    )
