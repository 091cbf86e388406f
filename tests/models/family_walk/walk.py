"""A walk over every image-text-to-text family of transformers, through the code that runs use.

    python -m tests.models.family_walk.walk                      # all of them
    python -m tests.models.family_walk.walk llava qwen2_vl       # only these

Each family is built at random with a few thousand to a few million parameters and taken through the steps of `steps.py`: its
own processor where there is a recipe for it (`own_processors.py`), log-probs of a batch with images of different
sizes, greedy and sampled answers, one step of DPO on LoRA, saving and loading. Nothing is downloaded. Each trial runs in a
process of its own with a time limit; whatever goes wrong there becomes the reason in the table. Afterwards the rows of the
families that were tried are new in `parallax/models/family_support.json`, which decides what a run does, and in docs/models.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from parallax.models.backbone import FAMILIES
from parallax.models.foreign import Config

SECONDS = 90  # of processor time that one family may take
LARGEST = 120_000_000  # parameters of a toy; more means that it was not made small
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
AT_TOYS = ("configuration", "network", "image")  # steps that say nothing about the family at full size

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
    **dict.fromkeys(
        ("blip-2", "instructblip"), "its forward asks for the image at every token, also where keys and values are kept"
    ),
    "mllama": "looks at images by cross-attention, whose keys and mask the batched generator does not carry",
    **dict.fromkeys(("blip", "git"), "its prompt holds no image token: the image is put before or beside the text"),
}


@dataclass(frozen=True)
class Trial:
    """What became of one family. `step` is the one that failed, or "" when all went well."""

    model_type: str
    step: str = ""
    reason: str = ""
    processor: bool = False  # its own, with its chat template; else inputs by hand
    features: bool = False  # takes ready image features
    shared: bool = False  # responses may share a prompt
    plain_head: bool = False  # its logits are its head's output and nothing else
    lora_modules: int = 0

    @property
    def works(self) -> bool:
        return not self.step

    def support(self) -> dict[str, Any]:
        """Its row in the file: see `FamilySupport`."""
        row = {key: value for key, value in asdict(self).items() if key != "model_type"}
        row["refused"] = "" if self.works or (self.step in AT_TOYS and self.model_type not in UNSUITED) else self.reason
        return row


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
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _walk(model_type, Path(folder))
    except Refused as refused:
        return Trial(model_type, refused.step, refused.reason)


def _walk(model_type: str, folder: Path) -> Trial:
    import torch

    from parallax.models.lora import add_lora
    from parallax.settings.groups import Lora
    from parallax.settings.shipped import shipped
    from tests.models.family_walk import steps
    from tests.models.family_walk.own_processors import OWN
    from tests.models.family_walk.prompts import by_hand, with_processor

    if model_type in UNSUITED:
        raise Refused("configuration", UNSUITED[model_type])
    own = model_type in OWN
    if own:
        toy = _guarded("processor", with_processor, model_type, folder / "checkpoint")
    else:
        config = _guarded("configuration", _config, model_type)
        if getattr(config, "is_encoder_decoder", False):
            raise Refused("encoder", "encoder and decoder are apart: an answer does not continue its prompt")
        torch.default_generator.manual_seed(0)
        toy = _guarded("image", by_hand, _guarded("network", _network, config))
    _guarded("forward", steps.plain_log_probs, toy.model, toy.prompts[0], toy.answers[0][0])
    _guarded("log-probs", steps.scores_as_plain, toy)
    _guarded("no leak", steps.no_leak, toy)
    features = _guarded("features", steps.ready_features, toy)
    _guarded("greedy", steps.generates_as_plain, toy)
    _guarded("sampled", steps.samples_alike, toy)
    untouched = deepcopy(toy.model)
    toy.model = _guarded("LoRA", add_lora, toy.model, shipped(Lora, r=4, alpha=None), seed=0)
    modules = [name for name, _ in toy.model.named_modules() if name.endswith(".lora_A")]
    _guarded("training step", steps.learns, toy)
    _guarded("saving", steps.saves, toy, untouched, folder)
    shared, plain_head = steps.shares(toy), steps.has_plain_head(toy)
    return Trial(model_type, "", "", own, features, shared, plain_head, len(modules))


def _config(model_type: str) -> Any:
    from tests.toys.shrunken_configs import shrunken_config
    from tests.toys.tiny_configs import BY_HAND, tiny_config

    return tiny_config(model_type) if model_type in BY_HAND else shrunken_config(model_type)


def _network(config: Config) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    from tests.toys.tiny_checkpoints import see_through

    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
    if count > LARGEST:
        raise ValueError(f"no toy of it is known: shrunk by the usual keys it still has {count:,} parameters")
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    see_through(model)
    return model


def _guarded(step: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except Refused:
        raise
    except Exception as error:
        raise Refused(step, _sentence(error, step)) from error


def _sentence(error: Exception, step: str) -> str:
    """The first telling sentence of an error, short enough for a table."""
    import transformers

    from tests.models.family_walk.inputs import NoImageToken
    from tests.models.family_walk.steps import Wrong

    if isinstance(error, ImportError) and (library := re.search(r"requires the (\S+) library", str(error))):
        return f"needs the {library.group(1)} library, which Parallax does not install"
    text = " ".join(str(error).split()) or "no message"
    text = re.split(r"(?<=[a-z\)])\. ", text)[0][:160].rstrip(" .")
    for mark, harmless in (("|", "/"), ("<", "‹"), (">", "›")):  # what Markdown would read as its own
        text = text.replace(mark, harmless)
    if isinstance(error, NoImageToken | Wrong):
        return text
    what = f"the forward of transformers {transformers.__version__}" if step == "forward" else "the toy"
    return f"{what} does not run ({type(error).__name__}: {text})"


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
            trial = Trial(name, "image", why)
        process.join()
        trials.append(trial)
        print(row(trial), file=sys.stderr, flush=True)
    return trials


def _report(name: str, sender: Connection, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sender.send(try_family(name))


def row(trial: Trial) -> str:
    """One line of the table of families that work, or of those that are refused."""
    if not trial.works:
        return f"| `{trial.model_type}` | refused | {trial.step}: {trial.reason} |"
    processor = "own" if trial.processor else "by hand"
    features = "kept" if trial.features else "pixels"
    layout = "shared" if trial.shared else "separate"
    return f"| `{trial.model_type}` | works | {processor} | yes | yes | yes | yes | yes | yes | {features} | {layout} |"


def table(trials: Sequence[Trial]) -> str:
    """The Markdown tables: families that work, then those that are refused."""
    import transformers

    good = sorted((trial for trial in trials if trial.works), key=lambda trial: trial.model_type)
    bad = sorted((trial for trial in trials if not trial.works), key=lambda trial: trial.model_type)
    return (
        f"{len(good)} of {len(trials)} families of transformers {transformers.__version__} work at toy size, "
        f"{sum(trial.processor for trial in good)} of them through their own processors, "
        f"{sum(trial.shared for trial in good)} with a shared prompt; {len(bad)} are refused.\n\n"
        "| family | result | processor | log-probs | no leak | greedy | sampled | training step | adapter and merged | "
        "image features | layout |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
        + "".join(f"{row(trial)}\n" for trial in good)
        + "\n| family | result | what stopped the walk |\n|---|---|---|\n"
        + "".join(f"{row(trial)}\n" for trial in bad)
    )


def write(trials: Sequence[Trial], document: Path, file: Path = FAMILIES) -> None:
    """New rows for these families in the file, and all rows of the file in the document, between its marks."""
    import transformers

    text = document.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} has no marks {BEGIN} and {END} to put the table between")
    known = json.loads(file.read_text(encoding="utf-8"))["families"] if file.is_file() else {}
    rows = dict(sorted((known | {trial.model_type: trial.support() for trial in trials}).items()))
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    version = json.dumps(transformers.__version__)
    file.write_text(f'{{"transformers": {version}, "families": {{\n{lines}\n}}}}\n', encoding="utf-8")
    every = [Trial(name, **{k: v for k, v in row.items() if k != "refused"}) for name, row in rows.items()]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n{table(every)}{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Try transformers' image-text-to-text families at toy size.")
    parser.add_argument("families", nargs="*", help="families to try; none means all")
    parser.add_argument("--dry", action="store_true", help="print the rows and write nothing")
    parser.add_argument("--document", type=Path, default=Path("docs/models.md"), help="where the table goes")
    given = parser.parse_args()
    unknown = sorted(set(given.families) - set(model_types()))
    if unknown:
        parser.error(f"not in transformers' mapping: {', '.join(unknown)}")
    trials = walk(given.families or list(model_types()))
    if not given.dry:
        write(trials, given.document)


if __name__ == "__main__":
    main()
