"""The critic's prompt (SIMA, arXiv 2405.15973, section 3.2), put together from the texts of a file in `conf/prompts/`.

A file holds the parts below; parts it leaves out are left out of the prompt. Words in braces are filled in. Everything that
is filled in stands on one line (runs of white space become one space), so that no answer can look like another part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from parallax.records.yaml_file import read_yaml
from parallax.settings.comments import CONF

Use = Literal["auto", "always", "never"]
TEXTS = ("task", "metrics", "item", "truth_line", "verdict_line", "with_truth", "without_truth")


@dataclass(frozen=True, slots=True)
class CriticPrompt:
    """The parts of a critic's prompt.

    Args:
        item: a question with two answers; knows {question}, {truth_line}, {first} and {second}. The only part that must be.
        truth_line: put in place of {truth_line} where there is a ground truth; knows {truth}.
        task: what is to be done. Knows {standard}.
        metrics: by what answers are measured. Knows {standard}.
        demonstrations: solved items (question, truth, first, second, reason, verdict), all of them texts.
        verdict_line: follows a demonstration's item; knows {reason} and {verdict}.
        with_truth, without_truth: the words for {standard} with and without a ground truth.
    """

    item: str
    truth_line: str = ""
    task: str = ""
    metrics: str = ""
    demonstrations: Sequence[Mapping[str, str]] = ()
    verdict_line: str = ""
    with_truth: str = "the reference answer"
    without_truth: str = "the image"

    def text(
        self, question: str, first: str, second: str, truth: str | None, *, metrics: bool, demonstrations: bool
    ) -> str:
        """The user's text for one comparison. `truth=None` leaves every ground truth out, the demonstrations' too."""
        standard = {"standard": self.without_truth if truth is None else self.with_truth}
        parts = [fill(self.task, standard)]
        if metrics:
            parts.append(fill(self.metrics, standard))
        if demonstrations:
            for shown in self.demonstrations:
                solved = self._item(shown["question"], shown["first"], shown["second"], truth and shown["truth"])
                parts.append(f"{solved}\n{fill(self.verdict_line, shown)}")
        parts.append(self._item(question, first, second, truth))
        return "\n\n".join(part for part in parts if part).strip()

    def _item(self, question: str, first: str, second: str, truth: str | None) -> str:
        line = fill(self.truth_line, {"truth": one_line(truth)}) if truth is not None else ""
        given = {"question": one_line(question), "first": one_line(first), "second": one_line(second)}
        standard = self.without_truth if truth is None else self.with_truth
        return fill(self.item, {**given, "truth_line": line, "standard": standard})


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in place of {names}, in one pass: braces inside a value stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def one_line(text: str) -> str:
    """Every run of white space as one space."""
    return " ".join(text.split())


def prompt_file(name: str) -> Path:
    """Where the texts of `judge.prompt` are: a file of `conf/prompts/` by its name, or a user's YAML file by its path."""
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    return Path(name).expanduser() if is_path else CONF / "prompts" / f"{name}.yaml"


def load_critic_prompt(name: str) -> CriticPrompt:
    """Read a prompt file. Raises FileNotFoundError or ValueError, in sentences."""
    return critic_prompt_from(*read_prompt_file(name, "critic*"))


def read_prompt_file(name: str, shipped: str) -> tuple[dict[str, Any], str]:
    """The texts of the file that `judge.prompt` names, and where it lies; `shipped` is how our own files of that sort are called.

    Raises FileNotFoundError, in a sentence.
    """
    file = prompt_file(name)
    if not file.is_file():
        known = sorted(path.stem for path in (CONF / "prompts").glob(f"{shipped}.yaml"))
        raise FileNotFoundError(
            f"judge.prompt={name} names no prompt file ({file}); use one of {', '.join(known)} or the path of a YAML file"
        )
    content: Any = OmegaConf.to_container(OmegaConf.create(read_yaml(file)), resolve=True)
    return (content if isinstance(content, dict) else {}), str(file)


def critic_prompt_from(content: Mapping[str, Any], file: str) -> CriticPrompt:
    """The texts of a file as a prompt. Raises ValueError where a part is unknown, missing or lacks a word it needs."""
    if unknown := sorted(set(content) - {*TEXTS, "demonstrations"}):
        raise ValueError(
            f"{file} has {', '.join(unknown)}; a critic's prompt is made of {', '.join(TEXTS)}, demonstrations"
        )
    for name in TEXTS:
        if name in content and not isinstance(content[name], str):
            raise ValueError(f"{file}: {name} is {content[name]!r}; it must be a text")
    for name in ("{question}", "{first}", "{second}"):
        if name not in content.get("item", ""):
            raise ValueError(f"{file}: item lacks {name}; it must show the question and both answers")
    if "{truth}" not in content.get("truth_line", "{truth}"):
        raise ValueError(f"{file}: truth_line lacks {{truth}}")
    demonstrations = content.get("demonstrations") or []
    for place, shown in enumerate(demonstrations):
        lacking = {"question", "truth", "first", "second", "reason", "verdict"} - set(shown)
        if lacking:
            raise ValueError(f"{file}: demonstration {place} lacks {', '.join(sorted(lacking))}")
    said = {str(shown["verdict"]) for shown in demonstrations}
    if demonstrations and said != {"1", "2"}:
        raise ValueError(
            f"{file}: the demonstrations' verdicts are {', '.join(sorted(said))}; show both 1 and 2, so that neither is the habit"
        )
    texts = {name: str(content[name]) for name in TEXTS if name in content}
    shown_items = tuple({key: one_line(str(value)) for key, value in shown.items()} for shown in demonstrations)
    return CriticPrompt(**texts, demonstrations=shown_items)
