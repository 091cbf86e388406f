"""Questions about an image, answered in the terminal; with an adapter before and after side by side, what differs marked.

    python run.py task=chat task.image=photo.jpg adapter=<folder>
    python run.py task=chat task.image=photo.jpg 'task.questions=["What is this?"]'

With `task.web=true` the same on a page (`chat_page`). In the terminal a line is a question; `:image other.jpg` looks at another
image; an empty line, `:q` or the end of input leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.models.devices import pick_device
from parallax.models.generation.requests import GenerationRequest
from parallax.records import BadImage, Decoding, ViewSpec, seed_for
from parallax.records.images import FileImage
from parallax.records.plain_text import say, terminal
from parallax.reports.worddiff import diff_words
from parallax.settings.build import build
from parallax.settings.groups import Lora, Task
from parallax.settings.ranges import Natural
from parallax.tasks.parts import make_policy

if TYPE_CHECKING:
    from rich.table import Table

    from parallax.models.policy import Policy
    from parallax.records import ImageRef


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("model",)

    image: str | None
    index: Natural
    web: bool
    host: str
    port: Natural
    questions: Sequence[str]


def run(cfg: DictConfig) -> None:
    """Ask until there are no more questions."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    task, adapter = config["task"], config["adapter"]
    device = pick_device(str(config["trainer"]["accelerator"]))
    image = open_image(task["image"]) if task["image"] else _of_data(config)
    image.load()  # a bad image is said at once
    lora = replace(Lora.of(config["lora"]), enabled=bool(adapter))
    policy = make_policy(config, lora, adapter=adapter, device=device)
    if task["web"]:
        from parallax.tasks.chat_page import serve

        return serve(policy, config)
    console = terminal()
    console.print(
        f"{policy.name}{f' and {adapter}' if adapter else ''}, looking at {image.describe()}",
        highlight=False,
        markup=False,
    )
    for line in _lines(list(task["questions"]), image.describe()):
        if line.startswith(":image "):
            try:
                chosen = open_image(line.removeprefix(":image ").strip())
                chosen.load()
                image = chosen
                console.print(f"looking at {image.describe()}", highlight=False, markup=False)
            except BadImage as error:
                console.print(str(error), style="red", highlight=False, markup=False)
            continue
        console.print(side_by_side(line, answers(policy, image, line, config)))


Heard = Callable[[str, list[int]], None]  # name of the answer, its token ids so far


def answers(
    policy: Policy, image: ImageRef, question: str, config: dict[str, Any], heard: Heard | None = None
) -> list[tuple[str, str]]:
    """(name, answer): base and aligned with an adapter, the model's own without one. `heard` follows them."""
    wanted = config["generation"]
    decoding = Decoding(int(wanted["max_new_tokens"]))
    if wanted["temperature"] > 0:
        seed = seed_for(int(config["seed"]), question, "chat")
        decoding = Decoding(decoding.max_new_tokens, float(wanted["temperature"]), float(wanted["top_p"]), seed)
    request = GenerationRequest("chat", image, question, ViewSpec(), decoding)

    def answer(name: str) -> str:
        follow = (lambda tokens: heard(name, tokens[0])) if heard else None
        (said,) = policy.generate([request], batch_size=1, heard=follow)
        assert said is not None, "only `set_aside` leaves a place empty"
        return said.text

    if not policy.has_adapter:
        return [("answer", answer("answer"))]
    with policy.reference():
        base = answer("base")
    return [("base", base), ("aligned", answer("aligned"))]


def side_by_side(question: str, said: list[tuple[str, str]]) -> Table:
    """The answers in columns; words that the other side does not have stand out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(question, style="bold"), title_justify="left", expand=True)
    for name, _ in said:
        table.add_column(name, ratio=1)
    if len(said) == 2:
        spans = diff_words(said[0][1], said[1][1])
        cells = [
            Text.assemble(*((span.text, style if span.differs else "") for span in side))
            for side, style in zip(spans, ("red", "green"), strict=True)
        ]
        same = said[0][1] == said[1][1]
        table.caption = "the same answer" if same else None
    else:
        cells = [Text(said[0][1])]
    table.add_row(*cells)
    return table


def open_image(path: str) -> ImageRef:
    """A file anywhere on this machine: who types its name may read it."""
    file = Path(path).expanduser().resolve()
    return FileImage(str(file.parent), file.name)


def _of_data(config: dict[str, Any]) -> ImageRef:
    for place, sample in enumerate(build(config["data"], "data")):
        if place == int(config["task"]["index"]):
            image: ImageRef = sample.image
            return image
    raise ValueError(f"task.index={config['task']['index']}: data has fewer images; name a file with task.image=…")


def _lines(questions: list[str], name: str) -> Iterator[str]:
    if questions:
        yield from questions
        return
    while True:
        if sys.stdin.isatty():
            say(f"Question about {name} (empty to leave):")
        line = sys.stdin.readline().strip()
        if line in ("", ":q"):
            return
        yield line
