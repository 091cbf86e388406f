"""A base in fewer bits (bitsandbytes): the linear layers of the text decoder, and nothing else.

nf4 keeps four bits per weight and a scale per 64 of them (QLoRA), int8 keeps a byte per weight and a scale per output
(LLM.int8). Vision tower, projector, embeddings and output head stay as they are. Quantised weights are never trained; the
adapter beside them is, and it fits the unquantised base just as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from parallax.models.backbone import decoder_name
from parallax.models.foreign import VLM


def quantization_config(kind: str, path: str, dtype: torch.dtype, revision: str) -> Any:
    """A `BitsAndBytesConfig` for the checkpoint at `path`, or None for `none`. `dtype` is what products are computed in."""
    if kind == "none":
        return None
    from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    with torch.device("meta"):
        decoder = decoder_name(AutoModelForImageTextToText.from_config(config))
    outside = rf"(?!{decoder.replace('.', '[.]')}[.]).*"  # full names are matched from their start
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=[outside]
        )  # fmt: skip
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[outside])


def kind_of(network: VLM) -> str:
    """none, nf4 or int8: how the weights of a loaded model are kept."""
    settings = getattr(network.config, "quantization_config", None)
    if settings is None:
        return "none"
    return "nf4" if getattr(settings, "load_in_4bit", False) else "int8"


def settle(network: VLM) -> None:
    """See that exactly the decoder's linear layers are quantised, and that they compute the same in every mode.

    On some CPUs bitsandbytes repacks 4-bit weights for inference and computes in bfloat16 from then on: answers and scores
    would differ from what training sees, and widths that are no multiple of 64 fail. That path is turned off.

    Raises RuntimeError for other layers: a pattern that matches nothing does so silently.
    """
    import bitsandbytes as bnb

    decoder = decoder_name(network) + "."
    for name, module in network.named_modules():
        quantized = isinstance(module, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt))
        if isinstance(module, nn.Linear) and quantized != name.startswith(decoder):
            raise RuntimeError(
                f"{name} is {'quantised' if quantized else 'not quantised'}, and it should be the other way round; this version "
                "of transformers reads llm_int8_skip_modules differently. Use model.quantization=none"
            )
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
