"""The sizes of a vision-language model that decide how much memory it needs, read off a live or a meta-device model.

`shape_of` looks at modules and configuration, never at values, so a model on the meta device (`true_size.meta_model`) tells
as much as one with weights. LoRA layers and 4-bit weights are looked through: the shape is that of the plain model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from parallax.models.backbone import base_model, decoder_name, text_config
from parallax.models.foreign import VLM, Config

READS = {  # what a linear layer of a decoder reads, by its name; layers that read the same tensor share one copy of it
    "q_proj": "attention's input", "k_proj": "attention's input", "v_proj": "attention's input",
    "qkv_proj": "attention's input", "o_proj": "attention's output", "out_proj": "attention's output",
    "gate_proj": "mlp's input", "up_proj": "mlp's input", "gate_up_proj": "mlp's input", "down_proj": "mlp's product",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LinearKind:
    """All linear layers of one name in the decoder, such as every `q_proj`. Widths of input and output; how many there are."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def reads(self) -> str:
        """Names the tensor it reads inside its layer."""
        return READS.get(self.name, self.name)


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The vision tower. `positions_per_token` counts its positions for each image token that the language model sees."""

    layers: int
    hidden: int
    intermediate: int
    positions_per_token: float


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder with a vision tower in front. Widths in elements; parts of the model in parameters."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    linears: tuple[LinearKind, ...]
    embedding: int  # parameters
    head: int  # parameters; 0 when it is the embedding
    other_language: int  # norms and biases
    vision_and_projector: int
    projector: int = 0  # of the ones before: those between vision tower and language model
    vision: VisionShape | None = None
    notes: tuple[str, ...] = ()  # what the forecast does not know about this model, in sentences

    @property
    def linear_parameters(self) -> int:
        """Weights of the decoder's linear layers: what LoRA adapts and quantisation packs."""
        return sum(kind.inputs * kind.outputs * kind.count for kind in self.linears)

    @property
    def language_parameters(self) -> int:
        """Decoder, embedding and output head: what full fine-tuning trains."""
        return self.linear_parameters + self.embedding + self.head + self.other_language

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision_and_projector


def shape_of(model: VLM) -> ModelShape:
    """The shape of a transformers image-text-to-text model, bare or inside peft. Raises ValueError without a decoder."""
    network = base_model(model)
    config = text_config(network)
    decoder = decoder_name(network)
    kinds: dict[str, list[tuple[int, int]]] = {}
    inside: set[int] = set()  # linear weights by identity
    for name, module in network.get_submodule(decoder).named_modules():
        plain = name.removesuffix(".base_layer")
        if not (hasattr(module, "in_features") and hasattr(module, "out_features")) or ".lora_" in name:
            continue
        if name == plain:
            kinds.setdefault(plain.rsplit(".", 1)[-1], []).append((int(module.in_features), int(module.out_features)))
        weight = module.weight
        inside.add(id(weight))
    embedding, output = network.get_input_embeddings().weight, network.get_output_embeddings()
    head = output.weight if output is not None else embedding
    special = {id(embedding), id(head)} | inside
    language = vision = projector = 0
    for name, parameter in network.named_parameters():
        if id(parameter) in special or "lora_" in name:
            continue
        if name.startswith(decoder + "."):
            language += parameter.numel()
        else:
            vision += parameter.numel()
            projector += parameter.numel() if re.search(r"projector|connector|aligner|merger", name) else 0
    heads = int(config.num_attention_heads)
    layers = int(config.num_hidden_layers)
    found = tuple(
        LinearKind(name, max(i for i, _ in ends), max(o for _, o in ends), len(ends)) for name, ends in kinds.items()
    )
    inner = [kind.outputs for kind in found if kind.name in ("gate_proj", "up_proj")]
    return ModelShape(
        layers=layers,
        hidden=int(config.hidden_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        intermediate=inner[0] if inner else int(getattr(config, "intermediate_size", 4 * config.hidden_size)),
        vocabulary=int(head.shape[0]),
        linears=found,
        embedding=embedding.numel(),
        head=0 if head is embedding else head.numel(),
        other_language=language,
        vision_and_projector=vision,
        projector=projector,
        vision=_vision(network.config),
        notes=_notes(found, layers),
    )


def _vision(config: Config) -> VisionShape | None:
    vision = getattr(config, "vision_config", None)
    hidden, layers = getattr(vision, "hidden_size", None), getattr(vision, "num_hidden_layers", None)
    layers = layers if layers is not None else getattr(vision, "depth", None)
    if not isinstance(hidden, int) or not isinstance(layers, int):
        return None
    inner = getattr(vision, "intermediate_size", None)
    merged = getattr(vision, "spatial_merge_size", None) or getattr(config, "scale_factor", None)
    side, patch = (_edge(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
    tokens = getattr(config, "image_seq_length", None) or getattr(config, "mm_tokens_per_image", None)
    if merged:
        ratio = float(merged) ** 2
    elif side and patch and isinstance(tokens, int):
        ratio = ((side // patch) ** 2 + 1) / tokens
    else:
        ratio = 1.0
    return VisionShape(layers, hidden, inner if isinstance(inner, int) else 4 * hidden, ratio)


def _edge(size: object) -> int | None:
    """The edge of a square given as a number or as height and width."""
    edge = size[0] if isinstance(size, (list, tuple)) else size
    return edge if isinstance(edge, int) else None


def _notes(found: tuple[LinearKind, ...], layers: int) -> tuple[str, ...]:
    strange = [kind.name for kind in found if kind.count != layers or kind.name not in READS]
    if not strange:
        return ()
    return (
        f"its decoder is not seven linear layers per block ({', '.join(strange[:4])} …), so activations are an estimate",
    )
