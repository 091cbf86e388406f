"""A walk over every image-text-to-text family of transformers: which ones can be aligned, tried at toy size.

    python -m parallax.small_world.toys.families                      # all of them, writes the table in docs/models.md
    python -m parallax.small_world.toys.families llava qwen2_vl       # only these, prints

Each family is built at random with a few thousand to a few million parameters and has to: take an image (and let its answer
depend on it), take LoRA on its language model only, learn one step, and generate three tokens. No processor and no network is
involved, so a family that works here still needs a checkpoint with a processor and a chat template. Each trial runs in a
process of its own with a time limit; whatever goes wrong there becomes the reason in the table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 40  # of processor time that one family may take
LARGEST = 120_000_000  # parameters of a toy; more means that it was not made small
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
STEPS = ("configuration", "network", "image", "LoRA", "training step", "generation")

UNSUITED = {  # what cannot be aligned, or not be built without a checkpoint's files
    "diffusion_gemma": "writes blocks by diffusion: there is no log-probability of a next token",
    "evolla": "reads proteins, not images",
    "mistral4": "the class transformers maps it to takes text only",
    "pi0": "gives robot actions, not text",
    "shieldgemma2": "answers with a safety verdict; as a model of text it is gemma3",
    "instructblipvideo": "takes videos only",
    "udop": "needs the words of the page and their places",
    **dict.fromkeys(
        ("chameleon", "emu3"), "images are tokens of its own vocabulary, whose table comes with a checkpoint only"
    ),
    **dict.fromkeys(("blip", "git"), "its prompt holds no image token: the image is put before or beside the text"),
}


@dataclass(frozen=True)
class Trial:
    """What became of one family. `step` is the one that failed, or the last one when all went well."""

    model_type: str
    works: bool
    step: str
    reason: str = ""
    layout: str = ""  # how the image is handed over
    parameters: int = 0
    lora_modules: int = 0
    seconds: float = 0.0


class Refused(Exception):
    """A family that cannot be aligned: which step failed, and why."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step, self.reason = step, reason


def model_types() -> dict[str, str]:
    """Every family of transformers' image-text-to-text mapping and the class that it names."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    return {str(model_type): str(cls) for model_type, cls in NAMES.items()}


def try_family(model_type: str) -> Trial:
    """Take one family through all steps, in this process."""
    started = time.perf_counter()
    try:
        layout, parameters, modules = _walk(model_type)
        return Trial(model_type, True, STEPS[-1], "", layout, parameters, modules, time.perf_counter() - started)
    except Refused as refused:
        return Trial(model_type, False, refused.step, refused.reason, seconds=time.perf_counter() - started)


def _walk(model_type: str) -> tuple[str, int, int]:
    import torch

    if model_type in UNSUITED:
        raise Refused("configuration", UNSUITED[model_type])
    config = _guarded("configuration", _config, model_type)
    if getattr(config, "is_encoder_decoder", False):
        raise Refused("configuration", "encoder and decoder are apart: an answer does not continue its prompt")
    torch.default_generator.manual_seed(0)
    model = _guarded("network", _network, config)
    layout, inputs = _look(model)
    from parallax.models.lora import add_lora

    tuned = _guarded("LoRA", add_lora, model, {"r": 4}, seed=0)
    modules = [name for name, _ in tuned.named_modules() if name.endswith(".lora_A")]
    _guarded("training step", _learn, tuned, inputs)
    _guarded("generation", _generate, tuned, inputs)
    return layout, sum(p.numel() for p in model.parameters()), len(modules)


def _config(model_type: str) -> Any:
    from parallax.small_world.toys.shrunken_configs import shrunken_config
    from parallax.small_world.toys.tiny_configs import BY_HAND, tiny_config

    return tiny_config(model_type) if model_type in BY_HAND else shrunken_config(model_type)


def _network(config: Any) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
    if count > LARGEST:
        raise ValueError(f"no toy of it is known: shrunk by the usual keys it still has {count:,} parameters")
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # some families start with zeros through which nothing is seen
        if (parameter.ndim >= 2 or parameter.numel() == 1) and not bool(parameter.any()):  # a projector, or a gate
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def _look(model: Any) -> tuple[str, dict[str, Any]]:
    """The first layout of an image that the model takes, with its inputs. Refused when another image changes nothing."""
    import torch

    from parallax.small_world.toys.family_inputs import candidates, prompts

    rejected: Exception | None = None  # why the first layout was not taken
    failed: Exception | None = None  # what went wrong with one whose features were made
    first, second = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    for (layout, vision), (_, another) in zip(candidates(model, first), candidates(model, second), strict=True):
        try:
            with torch.no_grad():
                for text in prompts(model, vision):
                    try:
                        logits, changed = (model(**text, **image).logits for image in (vision, another))
                        break
                    except Exception as problem:
                        failed = failed or problem
                else:
                    continue
        except Exception as problem:
            rejected = rejected or problem
            continue
        if logits.shape[:2] != text["input_ids"].shape or not bool(torch.isfinite(logits).all()):
            raise Refused("image", f"its logits have shape {tuple(logits.shape)} and are not one finite row per token")
        if torch.equal(logits[:, -1], changed[:, -1]):
            raise Refused("image", "its answer does not depend on the image")
        return layout, {**text, **vision}
    error = failed or rejected
    if error is None:
        raise Refused("image", "its forward takes no image that we know how to make")
    raise Refused("image", _sentence(error)) from error


def _learn(tuned: Any, inputs: dict[str, Any]) -> None:
    import torch

    from parallax.small_world.toys.family_inputs import TEXT

    trained = [(name, p) for name, p in tuned.named_parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW([p for _, p in trained], lr=1e-2)
    ids = inputs["input_ids"]
    losses = []
    for _ in range(2):
        logits = tuned(**inputs).logits[:, -len(TEXT) - 1 : -1].float()
        loss = -torch.log_softmax(logits, -1).gather(-1, ids[:, -len(TEXT) :, None]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    if not losses[1] < losses[0]:
        raise ValueError(f"one step did not lower the loss ({losses[0]:.4f} to {losses[1]:.4f})")


def _generate(tuned: Any, inputs: dict[str, Any]) -> None:
    import torch

    with torch.no_grad():
        made = tuned.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    length = inputs["input_ids"].shape[1]
    if made.shape not in {(1, length + 3), (1, 3), (1, 4)}:
        raise ValueError(f"generating 3 tokens after {length} gave a tensor of shape {tuple(made.shape)}")


def _guarded(step: str, function: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except Refused:
        raise
    except Exception as error:
        raise Refused(step, _sentence(error)) from error


def _sentence(error: Exception) -> str:
    """The first telling sentence of an error, short enough for a table."""
    from parallax.small_world.toys.family_inputs import NoImageToken

    if isinstance(error, ImportError) and (library := re.search(r"requires the (\S+) library", str(error))):
        return f"needs the {library.group(1)} library, which Parallax does not install"
    text = " ".join(str(error).split()) or "no message"
    text = re.split(r"(?<=[a-z\)])\. ", text)[0][:160].rstrip(" .")
    for mark, harmless in (("|", "/"), ("<", "‹"), (">", "›")):  # what Markdown would read as its own
        text = text.replace(mark, harmless)
    return text if isinstance(error, NoImageToken) else f"the toy does not run ({type(error).__name__}: {text})"


def walk(names: Sequence[str], seconds: float = SECONDS) -> list[Trial]:
    """Try families one after another, each in a forked process that is ended after `seconds` of processor time."""
    import peft  # noqa: F401  (slow to import, and every child needs it)
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    context = multiprocessing.get_context("fork")
    trials = []
    for name in names:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(name, sender, seconds))
        process.start()
        sender.close()
        try:
            trial = receiver.recv()
        except EOFError:  # it ended without a word
            process.join()
            late = process.exitcode == -signal.SIGXCPU
            why = f"took more than {seconds:g} s of processor time" if late else f"died, exit code {process.exitcode}"
            trial = Trial(name, False, "process", why)
        process.join()
        trials.append(trial)
        print(row(trial), file=sys.stderr, flush=True)
    return trials


def _report(name: str, sender: Any, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sender.send(try_family(name))


def row(trial: Trial) -> str:
    """One line of the table."""
    if trial.works:
        return f"| `{trial.model_type}` | works | image as {trial.layout}; LoRA on {trial.lora_modules} layers |"
    return f"| `{trial.model_type}` | refused | {trial.step}: {trial.reason} |"


def table(trials: Sequence[Trial]) -> str:
    """The Markdown table, families that work first."""
    import transformers

    works = sum(trial.works for trial in trials)
    ordered = sorted(trials, key=lambda trial: (not trial.works, trial.model_type))
    head = (
        f"{works} of {len(trials)} families of transformers {transformers.__version__} work at toy size, "
        f"{len(trials) - works} are refused.\n\n| family | result | |\n|---|---|---|\n"
    )
    return head + "\n".join(map(row, ordered)) + "\n"


def write_table(trials: Sequence[Trial], document: Path) -> None:
    """Put the table between the marks of the document."""
    text = document.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} has no marks {BEGIN} and {END} to put the table between")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n{table(trials)}{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Try transformers' image-text-to-text families at toy size.")
    parser.add_argument("families", nargs="*", help="families to try; none means all, and then the document is written")
    parser.add_argument("--document", type=Path, default=Path("docs/models.md"), help="where the table of all goes")
    given = parser.parse_args()
    unknown = sorted(set(given.families) - set(model_types()))
    if unknown:
        parser.error(f"not in transformers' mapping: {', '.join(unknown)}")
    trials = walk(given.families or list(model_types()))
    if given.families:
        print(table(trials))
    else:
        write_table(trials, given.document)


if __name__ == "__main__":
    main()
