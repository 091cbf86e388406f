"""`task=chat task.web=true`: a page on which the base model and the aligned one answer side by side about one image.

Answers come word by word. Where the image is a built-in scene, objects that an answer names and the scene has not are marked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import gradio as gr

from datamodules.shapes.language import object_spans
from parallax.records import BadImage
from parallax.records.interruption import stop_requested
from parallax.records.plain_text import say
from parallax.settings.build import build
from parallax.tasks.chat import answers, open_image

if TYPE_CHECKING:
    from PIL import Image

    from parallax.models.policy import Policy
    from parallax.records import Sample

ABSENT = "not in the image"
WHOLE_WORDS = (
    ".textfield, .textspan { word-break: normal !important; overflow-wrap: anywhere; }"  # lines end between words
)
LARGEST = "50mb"  # of an image that is handed in
Marked = list[tuple[str, str | None]]  # pieces of a text, each with `ABSENT` or nothing


def serve(policy: Policy, config: dict[str, Any]) -> None:
    """Show the page until Ctrl-C."""
    task = config["task"]
    app = page(policy, config)
    _, address, _ = app.launch(
        server_name=task["host"], server_port=task["port"] or None, prevent_thread_lock=True, quiet=True, share=False,
        max_file_size=LARGEST, ssr_mode=False, theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[], css=WHOLE_WORDS,
    )  # fmt: skip
    say(f"{policy.name} answers at {address} (Ctrl-C leaves)")
    try:
        while not stop_requested():
            time.sleep(0.2)
    finally:
        app.close()


def page(policy: Policy, config: dict[str, Any]) -> gr.Blocks:
    """The page, not yet served. Its one endpoint beside the picture's is `/ask`: image number, own image, question."""
    names = ("base", "aligned") if policy.has_adapter else ("answer",)
    own_path = config["task"]["image"]

    def look(number: float) -> Image.Image:
        return sample_of(config, number).image.load()

    def ask(number: float, own: str | None, question: str) -> Iterator[list[Marked]]:
        try:
            sample = None if own else sample_of(config, number)
            image = open_image(own) if own else sample_of(config, number).image
            for said in streamed(policy, lambda heard: answers(policy, image, question, config, heard)):
                shown = [marked(said.get(name, ""), sample) for name in names]
                yield shown if len(shown) > 1 else shown[0]  # type: ignore[misc]
        except (BadImage, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    with gr.Blocks(title="Parallax", analytics_enabled=False) as app:
        gr.Markdown(f"### {policy.name}{': base and aligned' if policy.has_adapter else ''}")
        with gr.Row():
            with gr.Column(scale=1):
                number = gr.Number(config["task"]["index"], label="image of the data", precision=0, minimum=0)
                shown = gr.Image(value=look(config["task"]["index"]), label="image", interactive=False, buttons=[])
                own = gr.Image(open_image(own_path).load() if own_path else None, type="filepath", label="or your own",
                               sources=["upload", "clipboard"])  # fmt: skip
            with gr.Column(scale=2):
                question = gr.Textbox("Describe the image.", label="question", lines=2)
                button = gr.Button("Ask", variant="primary")
                with gr.Row():
                    colours = {ABSENT: "red"}
                    said = [gr.HighlightedText(label=name, color_map=colours, elem_id=name) for name in names]
        number.change(look, number, shown, api_name="look")
        gr.on([button.click, question.submit], ask, [number, own, question], said, api_name="ask", concurrency_limit=1)
    return app


def sample_of(config: Mapping[str, Any], number: float) -> Sample:
    """The sample of the data with this number, from 0. Raises ValueError where the data has fewer."""
    for sample in islice(build(config["data"], "data"), int(number), int(number) + 1):
        return sample  # type: ignore[no-any-return]
    raise ValueError(f"the data has no image {number:g}; take a smaller number")


def streamed(policy: Policy, ask: Callable[[Callable[[str, list[int]], None]], object]) -> Iterator[dict[str, str]]:
    """What is said by name, after each token, while another thread answers. What it raises is raised here."""
    told: queue.Queue[tuple[str, list[int]] | BaseException | list[tuple[str, str]]] = queue.Queue()

    def answer() -> None:
        try:
            told.put(ask(lambda name, ids: told.put((name, list(ids)))))  # type: ignore[arg-type]
        except BaseException as error:  # to be raised where it is heard
            told.put(error)

    threading.Thread(target=answer, daemon=True).start()
    said: dict[str, str] = {}
    while isinstance(news := told.get(), tuple):
        said[news[0]] = policy.encoder.decode(news[1])
        yield dict(said)
    if isinstance(news, BaseException):
        raise news
    yield dict(news)


def marked(text: str, sample: Sample | None) -> Marked:
    """The text in pieces, objects that a built-in scene has not marked; of other images nothing is known."""
    if sample is None or sample.objects is None or "scene" not in sample.attributes:
        return [(text, None)]
    pieces: Marked = []
    end = 0
    for place, name in object_spans(text):
        if name not in sample.objects:
            pieces += [(text[end : place.start], None), (text[place], ABSENT)]
            end = place.stop
    return [*pieces, (text[end:], None)]
