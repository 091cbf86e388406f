"""A policy from a configuration: weights, processor, precision, attention, LoRA.

Any model that transformers' `AutoModelForImageTextToText` loads from safetensors and that has a chat template will do. No
code from a checkpoint is ever run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from parallax.models.adapter import is_adapter, load_adapter, uses_dora
from parallax.models.backbone import base_model, decoder_name, refuse_unfit, text_config
from parallax.models.batch import Layout
from parallax.models.devices import has_bfloat16
from parallax.models.encoding.image_features import MIB, FeatureCache, ReadyFeatures
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.encoding.tower import parameters_of, takes_features
from parallax.models.foreign import VLM, Config, Configured, Processor, Tokenizer
from parallax.models.fused_lora import fuse
from parallax.models.ingredients import config_digest, files_digest, model_digest, tensors_digest
from parallax.models.lora import add_lora, projector_names
from parallax.models.memory.advice import is_out_of_memory
from parallax.models.policy import Policy
from parallax.models.quantization import kind_of, quantization_config, settle
from parallax.models.saving import base_state
from parallax.models.scoring.log_probs import separate_sequences
from parallax.models.scoring.shared_prefix import (
    FLEX,
    SDPA,
    can_share,
    is_plainly_causal,
    register_attention,
    shared_prefix,
)
from parallax.models.scoring.varlen_attention import VARLEN, fault_of
from parallax.models.sharding.base import Sharding
from parallax.models.sharding.loading import NotInParts, Parts, empty_network
from parallax.records import fingerprint
from parallax.records.plain_text import quoted
from parallax.settings.extras import install_package
from parallax.settings.groups import Lora, Model
from parallax.settings.places import COMMAND

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_policy(
    model: Model,
    lora: Lora,
    *,
    device: str = "cpu",
    adapter: Path | str | None = None,
    seed: int = 0,
    digest_memory: Path | None = None,
    feature_folder: Path | None = None,
    mesh: DeviceMesh | None = None,
) -> Policy:
    """Load the policy that the two groups describe.

    Arguments:
        lora: with `enabled` false the language model is trained in full.
        adapter: start from this PEFT adapter (its own rank and targets count, not those of `lora`), or, for full
            fine-tuning, from this folder of whole weights.
        seed: decides the initial LoRA weights.
        digest_memory: file that remembers digests of weight files.
        feature_folder: where `feature_cache: disk` keeps image features, a sub-folder for each tower.
        mesh: divide the language model over the processes of this one-dimensional mesh as it is read, so that no process ever
            holds more than its share. None loads it whole.

    Raises ValueError or FileNotFoundError, in sentences, for what cannot be loaded.
    """
    from transformers import AutoConfig

    full = not lora.enabled
    if mesh is not None and lora.vision:
        raise ValueError(
            "lora.vision=true adapts the vision tower, which trainer=fsdp2 leaves whole in every process and does not bring "
            "together; train on one GPU or with trainer=ddp, or set lora.vision=false"
        )
    adapter = Path(adapter) if adapter is not None else None
    path = model.path
    if adapter is not None and not adapter.is_dir():
        raise FileNotFoundError(f"there is no adapter folder {adapter}; check the path, or start without an adapter")
    if adapter is not None and full and is_adapter(adapter):
        raise ValueError(
            f"{adapter} holds a LoRA adapter and lora=none was asked for; enable LoRA or merge the adapter first"
        )
    weights_path = str(adapter) if adapter is not None and not is_adapter(adapter) else path
    family = loaded(weights_path, AutoConfig, revision=model.commit).model_type
    if model.family not in (None, family):
        raise ValueError(
            f"model.family={model.family} and the checkpoint in {weights_path} is of the family {family}; use the model= that "
            "fits it, or model=hub, which reads the family from the checkpoint"
        )
    refuse_unfit(family, path)
    dtype = precision_for(model.dtype, device)
    parts = None if mesh is None else _open_parts(weights_path, model, lora, adapter, dtype, mesh)
    network = _load_network(weights_path, model, dtype, device) if parts is None else parts.network
    kind = kind_of(network)
    processor = load_processor(path, model, network)
    encoder = PromptEncoder(
        processor,
        end_token_ids=end_tokens(network, processor.tokenizer),
        max_context=context_of(model, network.config),
        image_pad=model.image_pad,
    )
    files = weight_files(weights_path)
    digest = model_digest(files_digest(files, digest_memory), network, kind) if files else None
    projector = projector_names(network) if model.train_projector else []
    network.requires_grad_(False)
    fresh = False
    if full and kind == "none":
        train_language_model(network, projector)
    elif full:
        log.info("%s weights cannot be trained: this policy only answers", kind)
    elif adapter is not None and is_adapter(adapter):
        network = load_adapter(network, adapter, read=parts is None)
    else:
        with nullcontext() if parts is None else parts.rows.keeping():
            network = add_lora(network, lora, seed=seed, projector=projector)
        fresh = True
    fuse(network)
    sharding: Sharding | None = None
    if parts is not None:
        sharding = parts.fill(network, adapter if not fresh and not full else None, device)
    elif kind == "none" or network is not base_model(network):
        network.to(device)  # a quantised base is there already, what was put around it may not be
    network.eval()
    return Policy(
        network,
        encoder,
        name=model.name,
        path=path,
        base_digest=digest,
        adapter_is_fresh=fresh,
        layout=layout_for(model.layout, network, model.attention),
        features=feature_cache_for(model, network, feature_folder),
        sharding=sharding,
    )


def precision_for(name: str, device: str) -> torch.dtype:
    """`auto` is float32 on a CPU; on a GPU bfloat16 where it is native, else float16."""
    if name == "auto":
        if not device.startswith("cuda"):
            return torch.float32
        return torch.bfloat16 if has_bfloat16() else torch.float16
    if name not in PRECISIONS:
        raise ValueError(f"model.dtype={name} is not known; use auto or one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def layout_for(name: str, network: VLM, attention: str = "auto") -> Layout:
    """How responses are laid out for scoring: `separate`, `shared`, or `auto` (shared where the family allows it).

    With a shared layout the text decoder gets the attention that is made for it, unless `attention` names a kernel.
    """
    plain = base_model(network)
    possible = can_share(plain)
    needed = "it takes a family of docs/models.md's table that shares, and model.attention=auto, sdpa, eager or flex_attention"
    flex = attention == "flex_attention"
    if name == "separate" or not possible:
        if name == "shared":
            raise ValueError(
                f"{type(plain).__name__} cannot share a prompt between responses ({needed}); use model.layout=separate"
            )
        if flex:
            raise ValueError(
                "model.attention=flex_attention is for prompts shared between responses, and here responses are scored as "
                f"separate sequences (model.layout={name}, {type(plain).__name__}: {needed}); use model.attention=auto"
            )
        if name == "auto":
            log.info("%s: responses are scored as separate sequences; %s", type(plain).__name__, needed)
        return separate_sequences
    if flex and not is_plainly_causal(plain):
        raise ValueError(
            f"model.attention=flex_attention is for decoders whose tokens see all earlier tokens and no other, and "
            f"{type(plain).__name__}'s do not; use model.attention=auto"
        )
    if attention in ("auto", "flex_attention") and is_plainly_causal(plain):
        register_attention()
        text_config(plain)._attn_implementation = FLEX if flex else _fastest_attention(plain)
    return shared_prefix


def _fastest_attention(network: VLM) -> str:
    """Variable-length flash attention where it runs and is right, else SDPA in two parts; the log says which, and why."""
    config, weight = text_config(network), network.get_input_embeddings().weight
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    fault = fault_of(
        weight.device, weight.dtype, heads, int(getattr(config, "num_key_value_heads", None) or heads), width
    )
    log.log(
        logging.DEBUG if weight.device.type == "cpu" else logging.INFO,
        "attention of shared prompts: %s", f"SDPA in two parts, since {fault}" if fault else "variable-length flash attention",
    )  # fmt: skip
    return SDPA if fault else VARLEN


def image_side_learns(network: VLM) -> bool:
    """Whether a weight outside decoder, embeddings and head learns: policy and reference then see images otherwise."""
    plain = base_model(network)
    language = {plain.get_input_embeddings(), plain.get_output_embeddings(), plain.get_decoder()}
    inside = {id(value) for module in language for value in module.parameters()}
    return any(value.requires_grad and id(value) not in inside for value in plain.parameters())


def feature_cache_for(model: Model, network: VLM, folder: Path | None) -> ReadyFeatures | None:
    """The cache of image features that `feature_cache` asks for: none | auto (memory where it is right) | memory | disk.

    There is none where the tower or the projector learns, by the settings or because the adapter brings weights for them.
    """
    kind = model.feature_cache
    learns = image_side_learns(network)
    right = takes_features(base_model(network)) and not learns
    if kind == "none" or (kind == "auto" and not right):
        return None
    if not right:
        why = "a tower or projector that learns changes them" if learns else "this family takes pixels only"
        raise ValueError(f"model.feature_cache={kind} cannot keep image features: {why}; use model.feature_cache=none")
    budget = model.feature_cache_mib * MIB
    if kind != "disk":
        return ReadyFeatures(FeatureCache(budget))
    if folder is None:
        raise ValueError(
            "model.feature_cache=disk needs a folder to keep features in; give feature_folder, or use memory"
        )
    plain = base_model(network)
    tower = {name: value for name, value in base_state(plain).items() if not name.startswith(decoder_name(plain) + ".")}
    home = fingerprint({"tower": tensors_digest(tower), "config": config_digest(plain)})
    return ReadyFeatures(FeatureCache(budget, folder / home))


def context_of(model: Model, config: Config) -> int:
    """Most tokens of a prompt with its answer: `model.context`, or what the checkpoint says."""
    return model.context or getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31


def end_tokens(network: Configured, tokenizer: Tokenizer) -> tuple[int, ...]:
    """All tokens that end an answer: the generation config's and the tokenizer's EOS, without repeats."""
    configured = getattr(network.generation_config, "eos_token_id", None)
    if configured is None:
        configured = getattr(network.config.get_text_config(), "eos_token_id", None)
    listed = configured if isinstance(configured, (list, tuple)) else [configured]
    return tuple(dict.fromkeys(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None))


def weight_files(path: str) -> list[Path]:
    """The safetensors files of a local folder or of a checkpoint in Hugging Face's own cache."""
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(path, "config.json")
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    return sorted(folder.glob("model*.safetensors"))


def train_language_model(network: VLM, projector: list[str]) -> None:
    """Full fine-tuning: decoder (embeddings included) and output head learn, vision tower and projector stay frozen."""
    network.get_submodule(decoder_name(network)).requires_grad_(True)
    network.get_input_embeddings().requires_grad_(True)
    network.get_output_embeddings().requires_grad_(True)
    for name in projector:
        network.get_submodule(name).requires_grad_(True)


def _load_network(path: str, model: Model, dtype: torch.dtype, device: str) -> Any:
    """The model on `device`, weight by weight: several processes of a machine never hold copies of it in host memory."""
    from transformers import AutoModelForImageTextToText

    settings = quantization_config(model.quantization, path, dtype, model.commit)
    network, report = loaded(
        path,
        AutoModelForImageTextToText,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `refuse_gaps` says which
        dtype=dtype,
        **({"device_map": {"": device}} if settings is not None or device != "cpu" else {}),
        quantization_config=settings,
        attn_implementation=_attention(model),
        revision=model.commit,
        use_safetensors=True,
    )
    refuse_gaps(path, report)
    if settings is not None:
        settle(network)
    return network


def _open_parts(
    path: str,
    model: Model,
    lora: Lora,
    adapter: Path | None,
    dtype: torch.dtype,
    mesh: DeviceMesh,
) -> Parts | None:
    """The model of the checkpoint to be read in parts; None, with a word, where it can only be loaded whole."""
    from transformers import AutoModelForImageTextToText

    try:
        if lora.dora or (adapter is not None and uses_dora(adapter)):
            raise NotInParts("DoRA begins with the norms of whole weights")
        with in_words(path):
            return Parts(
                empty_network(
                    AutoModelForImageTextToText, path, dtype, attention=_attention(model), revision=model.commit
                ),
                weight_files(path) if Path(path).is_dir() else _downloaded(path, model.commit),
                mesh,
            )
    except NotInParts as reason:
        log.info("%s is loaded whole by every process and sharded afterwards: %s", path, reason)
        return None


def _downloaded(path: str, revision: str) -> list[Path]:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(path, revision=revision, allow_patterns=["model*.safetensors", "*.json"])
    return sorted(Path(folder).glob("model*.safetensors"))


def _attention(model: Model) -> str:
    """The kernel that transformers is told; the text decoder may get one of ours later (`layout_for`)."""
    return "sdpa" if model.attention in ("auto", "flex_attention") else model.attention


def refuse_gaps(path: str, report: Mapping[str, Any]) -> None:
    """Raise ValueError for a checkpoint in which weights of the model are missing or have another shape: they would be random.

    Weights that the model does not use are left aside with a warning.
    """
    missing, spare = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    wrong = [
        f"{name} {tuple(there)} instead of {tuple(needed)}" for name, there, needed in sorted(report["mismatched_keys"])
    ]
    if missing or wrong:
        parts = [f"{len(missing)} weights are missing ({_some(missing)})"] if missing else []
        parts += [f"{len(wrong)} have another shape ({_some(wrong)})"] if wrong else []
        raise ValueError(
            f"the weights in {path} do not fit its config.json: {' and '.join(parts)}. They would be random; download the "
            "checkpoint again, or name the model it was made from"
        )
    if spare:
        log.warning(
            "%s holds %d weights that its model does not use (%s); they are left aside", path, len(spare), _some(spare)
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def load_processor(path: str, model: Model, network: Configured, **options: Any) -> Processor:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoProcessor

    processor = loaded(path, AutoProcessor, revision=model.commit, **options)
    vision = getattr(network.config, "vision_config", None)
    for name, value in (
        ("patch_size", getattr(vision, "patch_size", None)),
        ("vision_feature_select_strategy", getattr(network.config, "vision_feature_select_strategy", None)),
    ):
        if hasattr(processor, name) and getattr(processor, name) is None:  # checkpoints older than these settings
            setattr(processor, name, value)
    if hasattr(processor.image_processor, "merge_size") and not getattr(processor, "return_mm_token_type_ids", True):
        of_config: Any = type(network.config)
        family: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(of_config, None)
        if family and "mm_token_type_ids" in parameters_of(family, "forward"):
            processor.return_mm_token_type_ids = True  # Cosmos3-Edge's model asks for what its processor leaves out
    limit_pixels(processor, network, model.min_pixels, model.max_pixels)
    return processor


def limit_pixels(processor: Processor, network: Configured, min_pixels: int | None, max_pixels: int | None) -> None:
    """Set how many pixels an image may have after resizing. Qwen-VL: directly; LLaVA-NeXT, InternVL: by fewer tiles."""
    if min_pixels is None and max_pixels is None:
        return
    image_processor = processor.image_processor
    if hasattr(image_processor, "merge_size"):
        size = dict(image_processor.size)
        low = int(min_pixels if min_pixels is not None else size["shortest_edge"])
        high = int(max_pixels if max_pixels is not None else size["longest_edge"])
        if low > high:
            raise ValueError(f"model.min_pixels={low} is above model.max_pixels={high}; swap them or leave one out")
        image_processor.size = {"shortest_edge": low, "longest_edge": high}
    elif hasattr(image_processor, "max_patches") and min_pixels is None:  # InternVL: tiles of one size
        tile = image_processor.size["height"] * image_processor.size["width"]
        image_processor.max_patches = min(image_processor.max_patches, int(max_pixels or 0) // tile)
        if image_processor.max_patches < image_processor.min_patches:
            raise ValueError(f"model.max_pixels={max_pixels} leaves no tile; one has {tile} pixels")
    elif getattr(image_processor, "image_grid_pinpoints", None) and min_pixels is None:
        kept = [list(p) for p in image_processor.image_grid_pinpoints if p[0] * p[1] <= int(max_pixels or 0)]
        if not kept:
            smallest = min(p[0] * p[1] for p in image_processor.image_grid_pinpoints)
            raise ValueError(f"model.max_pixels={max_pixels} leaves no tiling; the smallest one has {smallest} pixels")
        image_processor.image_grid_pinpoints = kept
        network.config.image_grid_pinpoints = kept
    else:
        raise ValueError(
            f"{type(image_processor).__name__} has no such limits; leave model.max_pixels and model.min_pixels at null"
        )


def loaded(path: str, auto_class: type[Any], **options: Any) -> Any:
    """`auto_class.from_pretrained` with its errors in our words."""
    with in_words(path):
        return auto_class.from_pretrained(path, trust_remote_code=False, **options)


@contextmanager
def in_words(path: str) -> Iterator[None]:
    """What is raised about a checkpoint while it is read, in our words."""
    looks_local = path.startswith((".", "/", "~", "assets")) or path.count("/") > 1
    if looks_local and not Path(path).is_dir():
        raise FileNotFoundError(
            f"model.path={path} is not a folder here; give the folder of a downloaded checkpoint, or a Hugging Face name "
            f"such as llava-hf/llava-1.5-7b-hf. The built-in model is made by `{COMMAND} experiment=make_tiny_llava`"
        )
    try:
        yield
    except ImportError as error:
        package = re.search(r"[Pp]ackage `([\w-]+)`|requires the (\S+) library", str(error))
        if package is None:
            raise _unreadable(path, error) from error
        name = package[1] or package[2]
        raise ImportError(
            f"{path} needs the package {name}, which is not installed; run `{install_package(name)}`"
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"model.path={path} could not be loaded ({_first_sentence(error)}). It is neither a local folder nor in the "
            f"Hugging Face cache, and could not be downloaded; run `hf download {path}` where there is a network, or set "
            "model.path to a local folder"
            if not Path(path).is_dir()
            else f"the checkpoint in {path} could not be loaded ({_first_sentence(error)}); it needs config.json, "
            "*.safetensors and the processor's files"
        ) from error
    except Exception as error:  # whatever stands in a checkpoint's files: the libraries that read them raise all sorts
        ours = type(error).__module__.startswith("parallax.")
        if ours or is_out_of_memory(error) or "CUDA" in str(error):
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> ValueError:
    if "trust_remote_code" in str(error):
        return ValueError(
            f"model.path={path} brings code of its own, which is never run here; take a checkpoint that transformers reads by "
            "itself, such as those of the families in docs/models.md (names often end in -hf)"
        )
    return ValueError(
        f"the checkpoint in {path} could not be loaded ({type(error).__name__}: {quoted(error)}); mend the file, or "
        "download the checkpoint again"
    )


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
