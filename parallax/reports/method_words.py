"""What a run did, in words a reader of its report understands without the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parallax.settings.choices import choices, named_targets
from parallax.settings.comments import title
from parallax.settings.places import CONF

_METHODS = {
    "seva": (
        "Each question was answered twice by the same model: once looking at the clean image, once at {view}. "
        "The first answer is chosen, the second rejected, and no person or other model judged them."
    ),
    "seva_multi": (
        "Each question was answered once looking at the clean image and {k} times at {view}. The first answer is "
        "chosen, the others are rejected together, and no person or other model judged them."
    ),
    "stic": (
        "The model described each image twice: asked to look carefully, step by step, and either asked to imagine things or "
        "shown a corrupted image. The first answer is chosen, the second rejected. Then it was tuned on questions that carry its "
        "own description of the image, with the answers of the data."
    ),
    "positive_only": (
        "The model learned its own answers to a careful request, without any rejected ones, and then questions that carry its "
        "own description of the image, with the answers of the data."
    ),
    "continual_sft": "The model went on with plain fine-tuning on the answers of the data. There is no preference in it.",
    "gt_dpo": "The answer of the data is chosen, the model's own answer is rejected.",
    "spin": (
        "In rounds, the answer of the data is chosen and a sample of the model as it was when the round began is rejected; that "
        "model is also the reference."
    ),
    "povid": (
        "The answer of the data is chosen and the same text with hallucinations put in is rejected; in a second stage, what the "
        "model would say in its place about a noised image is rejected as well."
    ),
    "self_rewritten": "The model's own answer is chosen, what the same model made of it, to be wrong, is rejected.",
    "bpo": (
        "The model's own answer is chosen. Rejected are what the same model made of it, to be wrong, and its answer to {view}."
    ),
    "shape": (
        "The model answered each question about several views of the image. What it made of these answers is chosen, its answer "
        "to the clean image is rejected."
    ),
    "sena": (
        "The model wrote questions about each image itself, answered them, and improved its answers. These are chosen, its "
        "answers to {view} are rejected, and descriptions are learned as well."
    ),
    "opa_dpo": (
        "The model first learned the chosen answers by plain fine-tuning, and then to prefer them, compared with the model as it "
        "was after that."
    ),
    "dropout_ntp": (
        "The model's own answer is chosen. Its first half, which the same model finished while looking at {view}, is rejected."
    ),
    "dpo_file": "The model was tuned on preference pairs that were given in a file.",
    "sima": (
        "Each question was answered greedily and by sampling, and the same model, with the image before it, said which answer is "
        "better. No person or other model judged them."
    ),
    "csr": (
        "The model said several answers to each question, sentence by sentence. The one whose sentences are likely "
        "to the model and fit the picture by an image-text model is chosen, the one that scores worst is rejected."
    ),
    "self_rewarding": (
        "The model said several answers to each question, sentence by sentence. The one that is likeliest to the model itself is "
        "chosen, the one that is least likely is rejected."
    ),
}
_LOSSES = {
    "DPO": "direct preference optimisation", "IPO": "IPO", "Hinge": "the hinge loss", "Robust": "robust DPO",
    "CPO": "contrastive preference optimisation (CPO)", "ORPO": "fine-tuning with the odds ratio of the two answers (ORPO)",
    "APOZero": "anchored preference optimisation (APO-zero)", "APODown": "anchored preference optimisation (APO-down)",
    "LengthNormalised": "DPO on log-ratios per token", "FDivergence": "DPO under another divergence",
    "Stic": "DPO with a share of the chosen answers' log-likelihood (STIC)",
    "MultiNegative": "DPO against several rejected answers at once", "Weighted": "a weighted sum of objectives",
    "Povid": "DPO against a hallucinated text and against what the model says under noise",
}  # fmt: skip
_VIEWS = {
    "diffusion": "a view covered with diffusion noise (step {noise_steps} of 1000)",
    "random_flip": "the same image, in half of the cases mirrored",
    "identity": "the same image again",
    "no_image": "no image at all",
    "mixture": "a view drawn from several kinds",
    "several": "views of several kinds",
}


def method_in_words(config: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """Two or three sentences about the pairs and the training, from the resolved configuration and the counts."""
    if results.get("method") == "evaluate":
        return [_evaluation_in_words(config)]
    name = str(_at(config, "method.name") or results.get("method") or "")
    kept = (results.get("pairs") or {}).get("kept")
    how = _METHODS.get(name) or _unknown_method(name)
    sentences = [how.format(view=_view(config), k=_at(config, "pairs.num_negatives") or "several")]
    target = str(_at(config, "loss._target_") or "").rsplit(".", 1)[-1]
    loss = _LOSSES.get(target) or _unknown_loss(config, target)
    if kept and loss:
        beta = _at(config, "loss.beta")
        on = f"{loss}, β = {beta:g}" if isinstance(beta, int | float) else loss
        steps = f" in {results['steps']} steps" if results.get("steps") else ""
        rank = _at(config, "lora.r")
        part = f"a LoRA adapter of rank {rank}" if _at(config, "lora.enabled") and rank else "the language model"
        sentences.append(f"{kept} pairs were kept, and {part} was tuned on them with {on}{steps}.")
    return sentences


def _evaluation_in_words(config: Mapping[str, Any]) -> str:
    model, adapter = _at(config, "model.name") or "The model", _at(config, "adapter")
    under = "" if not _at(config, "evaluation.view") else ", on images shown through a view that corrupts them"
    if adapter:
        return f"{model} was measured as it is and with the adapter {adapter}{under}. Nothing was trained."
    return f"{model} was measured as it is{under}. Nothing was trained."


HIGHLIGHTS = (
    ("model", "model.name"), ("data", "data.name"), ("view", "aug.name"), ("noise steps", "aug.noise_steps"),
    ("rejected answers", "pairs.num_negatives"), ("β", "loss.beta"), ("α", "loss.alpha"), ("LoRA rank", "lora.r"),
    ("LoRA α", "lora.alpha"), ("learning rate", "optim.lr"), ("pairs per step", "trainer.batch_size"),
    ("epochs", "trainer.max_epochs"), ("precision", "trainer.precision"), ("token limit", "generation.max_new_tokens"),
    ("seed", "seed"),
)  # fmt: skip


def setting_name(key: str) -> str:
    """What a setting is called where people read it: `LoRA rank` for `lora.r`, `noise steps` for `aug.noise_steps`."""
    return {path: label for label, path in HIGHLIGHTS}.get(key) or key.rpartition(".")[2].replace("_", " ")


def highlights(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of the settings most readers look for, as far as the configuration has them."""
    found = []
    evaluation = _at(config, "task.name") == "evaluate"
    for label, path in HIGHLIGHTS:
        if evaluation and path not in ("model.name", "generation.max_new_tokens", "seed"):
            continue
        value = _at(config, path)
        if value is None and path == "aug.name":
            value = str(_at(config, "aug._target_") or "").rsplit(".", 1)[-1] or None
        if value is None and path == "data.name":
            value = str(_at(config, "data._target_") or "").rsplit(".", 1)[-1] or None
        if value is not None and not isinstance(value, Mapping | list):
            found.append((label, f"{value:g}" if isinstance(value, float) else str(value)))
    return found


def _view(config: Mapping[str, Any]) -> str:
    view = dict(_at(config, "aug") or {})
    target = str(view.get("_target_") or "")
    name = _choice_of("aug", target) or target.rsplit(".", 1)[-1]
    if name in _VIEWS:
        return _VIEWS[name].format(**{"noise_steps": "?", **view})
    return f"a corrupted view of it ({name})" if name else "a corrupted view of it"


def _unknown_method(name: str) -> str:
    """What the first comment of its file says; braces of its own are no places to fill in."""
    said = title(CONF / "method" / f"{name}.yaml") if name in choices("method") else ""
    words = (
        f"The method {name} was run{f': {said}' if said else '.'}" if name else "A model was tuned on preference pairs."
    )
    return words.replace("{", "{{").replace("}", "}}")


def _unknown_loss(config: Mapping[str, Any], target: str) -> str:
    """What the first comment of its file says, for objectives written since."""
    name = _choice_of("loss", str(_at(config, "loss._target_")))
    return title(CONF / "loss" / f"{name}.yaml").partition(":")[0] if name else target


def _choice_of(group: str, target: str) -> str | None:
    """The choice of a group that names this part; None where no file does."""
    return next((name for name, of in named_targets(group).items() if of == target), None)


def _at(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
