"""What is done with a model, as far as it decides how much memory that takes: the memory planner's question."""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Workload:
    """What is done with the model. Token counts are those of the longest rows.

    Attributes:
        prompt_tokens: P, image tokens included.
        image_tokens: of the prompt.
        response_tokens: R, of the longest response.
        responses: 1 + K per pair.
        looks: answers per pair that are scored beside further images, in rows of their own.
        pairs: in one forward pass (micro-batch).
        micro_batches: forward passes per optimiser step and process.
        layout: separate | shared.
        weights: type of the base model's weights.
        autocast: type of autocast, or None.
        trained: type of the weights that learn.
        quantization: none | nf4 | int8.
        rank: of LoRA; 0 trains the language model in full.
        targets: names of adapted linear layers; None for all of the decoder.
        dropout: whether LoRA dropout is on.
        optimiser: adamw | adamw_8bit | paged_adamw | paged_adamw_8bit.
        checkpointing: activations are recomputed.
        attention: sdpa | prefix_sdpa (a shared prompt without a mask) | eager | flash_attention_2 | flex_attention.
        fused: LoRA layers compute as in `fused_lora.py`.
        reference: cached | live | none.
        strategy: single | ddp | sharded.
        processes: how many, 1 or more.
        head_chunk: scored positions the output head takes at once; 0 for all.
        train_projector: the projector is trained too.
    """

    prompt_tokens: int
    image_tokens: int
    response_tokens: int
    responses: int = 2
    looks: int = 0
    pairs: int = 1
    micro_batches: int = 1
    layout: str = "separate"
    weights: str = "float32"
    autocast: str | None = None
    trained: str = "float32"
    quantization: str = "none"
    rank: int = 0
    targets: tuple[str, ...] | None = None
    dropout: bool = False
    optimiser: str = "adamw"
    checkpointing: bool = False
    attention: str = "sdpa"
    reference: str = "cached"
    strategy: str = "single"
    processes: int = 1
    head_chunk: int = 0
    fused: bool = False
    train_projector: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "layout": ("separate", "shared"),
            "quantization": ("none", "nf4", "int8"),
            "optimiser": ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"),
            "attention": ("sdpa", "prefix_sdpa", "eager", "flash_attention_2", "flex_attention"),
            "reference": ("cached", "live", "none"),
            "strategy": ("single", "ddp", "sharded"),
        }
        for name, words in allowed.items():
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known to the memory planner; use {', '.join(words)}"
                )
        for name in ("prompt_tokens", "response_tokens", "responses", "pairs", "micro_batches", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def rows(self) -> int:
        return self.pairs if self.layout == "shared" else self.pairs * self.responses

    @property
    def width(self) -> int:
        """Tokens of a row."""
        several = self.responses if self.layout == "shared" else 1
        return self.prompt_tokens + several * self.response_tokens

    @property
    def tokens(self) -> int:
        beside = self.pairs * self.looks * (self.prompt_tokens + self.response_tokens)
        return self.rows * self.width + beside

    @property
    def scored(self) -> int:
        """Response tokens that are scored."""
        return self.pairs * (self.responses + self.looks) * self.response_tokens

    @property
    def compute(self) -> int:
        """Bytes of a value in matrix products."""
        return BYTES[self.autocast or self.weights]

    @property
    def full(self) -> bool:
        return self.rank == 0
