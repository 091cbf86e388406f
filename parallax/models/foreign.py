"""What this program asks of the objects of transformers, peft and torch, for the type checker: none of these is ever made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

if TYPE_CHECKING:
    from peft import LoraConfig


class Config(Protocol):
    """The configuration of a model or of one of its parts; each family has keys of its own beside these."""

    model_type: str
    get_text_config: Callable[[], Config]
    to_dict: Callable[[], dict[str, Any]]

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object) -> None: ...


class Configured(Protocol):
    """Anything with the configurations of a checkpoint."""

    config: Config
    generation_config: Any


class VLM(nn.Module):
    """An image-text-to-text model of transformers, with or without peft's wrapper around it."""

    config: Config
    generation_config: Any
    base_model_prefix: str
    model: VLM  # without its head
    get_decoder: Callable[[], nn.Module]
    get_input_embeddings: Callable[[], nn.Embedding]
    get_output_embeddings: Callable[[], nn.Linear]
    get_image_features: Callable[..., Any]
    get_rope_index: Callable[..., tuple[Tensor, Tensor]]
    activation_checkpointing_enable: Callable[[dict[str, Any]], None]
    activation_checkpointing_disable: Callable[[], None]
    gradient_checkpointing_enable: Callable[[dict[str, Any]], None]
    gradient_checkpointing_disable: Callable[[], None]
    disable_input_require_grads: Callable[[], None]
    generate: Callable[..., Tensor]
    save_pretrained: Callable[..., None]
    tie_weights: Callable[[], None]
    _weight_conversions: list[Any]
    # of peft's wrapper only
    peft_config: dict[str, LoraConfig]
    get_base_model: Callable[[], VLM]
    disable_adapter: Callable[[], AbstractContextManager[None]]


class Tokenizer(Protocol):
    """A tokenizer of transformers."""

    pad_token_id: int
    eos_token_id: int
    bos_token_id: int
    bos_token: str
    all_special_ids: list[int]
    all_special_tokens: list[str]
    special_tokens_map: Mapping[str, Any]
    added_tokens_decoder: Mapping[int, Any]
    encode: Callable[..., list[int]]
    decode: Callable[..., str]
    batch_decode: Callable[..., list[str]]
    convert_ids_to_tokens: Callable[..., Any]
    convert_tokens_to_ids: Callable[..., Any]
    get_vocab: Callable[[], dict[str, int]]

    def __len__(self) -> int: ...

    def __call__(self, text: str | Sequence[str], **options: Any) -> Any: ...


class ImageProcessor(Protocol):
    """What makes pixels of pictures; how, beside mean and deviation, each family says in its own words."""

    image_mean: Sequence[float]
    image_std: Sequence[float]
    to_dict: Callable[[], dict[str, Any]]

    def __call__(self, images: object, **options: Any) -> Any: ...

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object) -> None: ...


class Processor(Protocol):
    """A tokenizer and an image processor that belong together."""

    tokenizer: Tokenizer
    image_processor: ImageProcessor
    chat_template: Any
    apply_chat_template: Callable[..., Any]
    save_pretrained: Callable[..., Any]

    def __call__(self, **inputs: Any) -> Any: ...


class Pass(FunctionCtx):
    """What a function of ours keeps of its forward pass for the backward one; each has fields of its own beside these."""

    saved_tensors: tuple[Any, ...]
    needs_input_grad: tuple[bool, ...]
    save_for_backward: Callable[..., None]  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object) -> None: ...
