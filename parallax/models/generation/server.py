"""Answers from a server that speaks OpenAI's protocol (vLLM, SGLang), for pair building at scale.

The server holds the same weights as the policy; an adapter that has learned something is saved and loaded there under its
fingerprint, so an answer is never taken for that of other weights. Pictures are sent without loss. A view of the normalised
tensor is sent as the picture it looks like, at the size the model reads (`as_pictures`): what lies outside black and white is
cut off there, so such answers are kept under a generator name of their own and never mixed with those of the policy itself.
"""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.models import processes
from parallax.models.encoding.prompt_encoder import PromptTooLong
from parallax.models.generation.generate import Answerer, Finished, SetAside
from parallax.models.generation.prefetch import refusal
from parallax.models.generation.requests import Generation, GenerationCounts, GenerationRequest, OtherPrompt
from parallax.models.generation.server_prompts import PromptCheck
from parallax.models.generation.server_reply import Completion, model_names
from parallax.models.http_client import HttpClient, ServiceError
from parallax.records import GenerationSpec, Message
from parallax.records.plain_text import quoted
from parallax.settings import groups as group

if TYPE_CHECKING:
    from PIL import Image

    from parallax.models.encoding.prompt_encoder import PromptEncoder
    from parallax.models.policy import Policy

log = logging.getLogger(__name__)

VERSION = 2  # of what is sent and how answers are read; a change that may change tokens raises it
NOTHING_BUT_WHAT_IS_ASKED = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


class ServerError(RuntimeError):
    """The server cannot do what the run needs. The message says what to change."""


class ServerGenerator:
    """Stands in for a policy where answers are made: `spec`, `generate` and `last_generation` are as the policy's.

    Args:
        policy: whose weights the server has; its encoder prepares pictures and reads answers.
        url: of the server's API, e.g. http://127.0.0.1:8000/v1.
        model: what the server calls the base model.
        concurrency: requests under way at once.
        timeout: seconds one request may take.
        retries: how often a request that failed (connection, 429, 5xx, time-out) is made again, after waits that double.
        key_variable: environment variable with the server's key; servers without keys need none.
        adapter: `load` has the server load what the policy has learned, from a folder below `adapters` that it must see; any
            other word is what the server calls that adapter.
        adapters: where adapters are saved for the server.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        url: str,
        model: str,
        concurrency: int = 32,
        timeout: float = 600.0,
        retries: int = 6,
        key_variable: str = "OPENAI_API_KEY",
        adapter: str = "load",
        adapters: Path | str = "adapters",
    ) -> None:
        self.policy, self.encoder, self.url, self.model = policy, policy.encoder, url, model
        self.concurrency, self.adapter, self.adapters = concurrency, adapter, Path(adapters).expanduser()
        self.client = HttpClient(
            "the server", url, setting="generation.url", key_variable=key_variable, timeout=timeout, retries=retries
        )
        self.last_generation = GenerationCounts()
        self._loaded: dict[str, str] = {}  # policy fingerprint -> name of its model on the server
        self._known: set[str] | None = None
        self._prompts = PromptCheck(policy.encoder)

    def spec(self, request: GenerationRequest) -> GenerationSpec:
        """As the policy's, with a generator of its own: another kernel and another precision may pick other tokens."""
        spec: GenerationSpec = self.policy.spec(request)
        return replace(spec, generator=f"server/{VERSION}/{self.model}")

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        batch_size: int = 128,
        progress: Callable[[int], None] | None = None,
        set_aside: SetAside | None = None,
        finished: Finished | None = None,
        num_workers: int | str | None = None,
    ) -> list[Generation | None]:
        """Answers in the order of the requests. As `Policy.generate`; `batch_size` is how many are handed on at a time.

        Raises ServerError when the server is not there, refuses, or does not know the model.
        """
        began = time.perf_counter()
        counts = GenerationCounts(rows=len(requests))
        model = self._served() if requests else ""
        results: list[Generation | None] = [None] * len(requests)
        with ThreadPoolExecutor(self.concurrency) as pool:
            outcomes = _windowed(pool, lambda request: self._ask(model, request), requests, 2 * self.concurrency)
            for start in range(0, len(requests), batch_size):
                made: dict[int, Generation] = {}
                size = min(batch_size, len(requests) - start)
                for place, outcome in enumerate(islice(outcomes, size), start=start):
                    if isinstance(outcome, Generation):
                        results[place] = made[place] = outcome
                        counts.tokens += len(outcome.token_ids)
                        continue
                    reason = refusal(outcome)
                    if reason is None or set_aside is None:
                        pool.shutdown(wait=False, cancel_futures=True)
                        if finished is not None:  # what was done is kept
                            finished(made)
                        raise outcome
                    set_aside(requests[place], reason)
                if finished is not None:
                    finished(made)
                if progress is not None:
                    progress(size)
        counts.seconds = time.perf_counter() - began
        self.last_generation = counts
        return results

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside: the server has what the policy has learned. All processes enter together, however little each will ask."""
        self._served()
        yield

    # -- inside ----------------------------------------------------------------------------------------------------

    def _ask(self, model: str, request: GenerationRequest) -> Generation | Exception:
        """One answer, or why there is none."""
        decoding = request.decoding
        sampling: dict[str, Any] = {"temperature": decoding.temperature}
        if not decoding.greedy:
            sampling |= {"top_p": decoding.top_p, "seed": decoding.seed % 2**31}
        chat = self.policy.encoder.chat
        # vLLM writes no BOS of its own accord, and else takes what is not named from the model's generation_config.json
        extra = {"return_token_ids": True, "skip_special_tokens": True, **NOTHING_BUT_WHAT_IS_ASKED}
        try:
            asked = _shown(request)
            start = self.policy.encoder.encode_start(request.answer_start)
            extra["add_special_tokens"] = chat.adds_special_tokens(chat.render_messages(asked))
            pictures = as_pictures(self.policy.encoder, request)
            reply = Completion(self.policy.encoder, decoding.max_new_tokens)
            messages = chat_messages(asked, pictures)
            if start:
                messages.append({"role": "assistant", "content": request.answer_start})
                extra |= {"add_generation_prompt": False, "continue_final_message": True}
            said, read = self.client.post(
                "chat/completions",
                {"model": model, "messages": messages, "max_tokens": decoding.max_new_tokens, **sampling, **extra},
                reply.checked,
            )
            if start and not read:
                return ServerError(
                    f"the server at {self.url} does not say what it reads, so it is not known whether it goes on from the start "
                    "of an answer that this method gives. Use vLLM (with return_token_ids), or generation=transformers"
                )
            if read:
                self._prompts.compare(asked, pictures, read, start)
            return said if isinstance(said, Exception) or not start else said.after(start, self.policy.encoder)
        except OtherPrompt as error:
            return error if self._prompts.agreed else ServerError(str(error))
        except ServiceError as error:
            if error.status == 400 and ("context" in error.said or "too long" in error.said):
                return PromptTooLong(f"the server refused the prompt as longer than the model's context ({error.said})")
            return ServerError(f"{error}. What was answered is kept: the same command goes on when this is mended")
        except Exception as error:
            return error

    def _served(self) -> str:
        """What the server calls the policy as it is now; a learned adapter is loaded there first."""
        name = self.policy.fingerprint()
        if name not in self._loaded:
            if self.policy.fingerprint() == self.policy.base_fingerprint():
                self._loaded[name] = self._there(self.model)
            elif not self.policy.has_adapter:
                raise ServerError(
                    "lora=none has changed the weights themselves, and a server cannot take those over while it runs. Use "
                    "generation=transformers, or start the server on the trained model and the run on it too"
                )
            else:
                self._loaded[name] = self._there(self.adapter) if self.adapter != "load" else self._load(name)
        return self._loaded[name]

    def _there(self, model: str) -> str:
        if self._known is None:
            try:
                self._known = self.client.get("models", model_names)
            except ServiceError as error:
                raise ServerError(
                    f"there is no server at generation.url={self.url} ({error}). Start it (docs/scaling.md has the commands), or "
                    "use generation=transformers"
                ) from error
        if model not in self._known:
            raise ServerError(
                f"the server at {self.url} does not serve {model!r}, it has {quoted(', '.join(sorted(self._known)))}. Set "
                "generation.model or generation.adapter to what it serves"
            )
        return model

    def _load(self, fingerprint: str) -> str:
        """Save the adapter where the server finds it and have it loaded, as vLLM does it."""
        name, folder = f"parallax-{fingerprint[:16]}", self.adapters / fingerprint
        if not processes.broadcast((folder / "adapter_config.json").is_file()):
            self.policy.save_adapter(folder)
        try:
            body = {"lora_name": name, "lora_path": str(folder.resolve())}
            self.client.post("load_lora_adapter", body, retries=0)
        except ServiceError as error:
            if error.status == 404:
                raise ServerError(
                    f"the server at {self.url} does not load adapters ({error.said}). Start vLLM with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or name a loaded one in generation.adapter"
                ) from error
            if "already" not in error.said:
                raise ServerError(
                    f"the server at {self.url} could not load the adapter in {folder}: {error}. It needs to see that folder, "
                    "and --max-lora-rank of vLLM needs to be lora.r at least"
                ) from error
        return name


def as_pictures(encoder: PromptEncoder, request: GenerationRequest) -> list[Image.Image]:
    """The pictures to send, so that the server's model sees what ours would. Raises BadImage, or ValueError for some views.

    Views of the picture itself arrive exactly. For a view of the normalised tensor the tensor is turned back into colours at the
    size the model reads, where the server's processor has nothing left to resize; only values beyond black and white are lost
    (`lost_in_picture` measures how much), and the rest is rounded to 1/255.
    """
    from augment.registry import places_shown, views_of

    images = request.conversation.images
    views = views_of(request.view, len(images)) if len(images) > 1 else [request.view]
    shown = places_shown(request.view, len(images))
    return [encoder.picture(images[place].load(), views[place]) for place in shown]


def lost_in_picture(encoder: PromptEncoder, request: GenerationRequest) -> float:
    """Root of the mean squared difference, in units of the normalised tensor, that sending a picture makes to what is seen."""
    asked = request.conversation
    seen = encoder.encode_conversation(asked, request.view).vision["pixel_values"].float()
    sent = encoder.encode_prompt(as_pictures(encoder, request), asked).vision["pixel_values"].float()
    return float((seen - sent).square().mean().sqrt())


def _shown(request: GenerationRequest) -> tuple[Message, ...]:
    """The messages with the pictures that the request's view leaves in them."""
    from augment.registry import places_shown

    asked = request.conversation
    return asked.showing(places_shown(request.view, len(asked.images)))


def chat_messages(asked: Sequence[Message], pictures: Sequence[Image.Image]) -> list[Any]:
    """The conversation as a server of OpenAI's interface takes it."""
    left = iter(pictures)
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else _image_part(next(left))
                for part in message.parts
            ],
        }
        for message in asked
    ]


def _image_part(picture: Image.Image) -> Any:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"},
    }


def _windowed(pool: ThreadPoolExecutor, act: Callable[[Any], Any], items: Iterable[Any], window: int) -> Iterator[Any]:
    """`pool.map` in order, with no more than `window` items begun beyond the one that is waited for."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(pool.submit(act, item))
        if len(waiting) >= window:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def answerer_for(policy: Policy, wanted: group.Generation, cache_dir: Path) -> Answerer:
    """Who answers, by the `generation` group: the policy itself, or a server with its weights."""
    if wanted.backend == "transformers":
        return policy
    return ServerGenerator(
        policy,
        url=wanted.url,
        model=wanted.model,
        concurrency=wanted.concurrency,
        timeout=wanted.timeout,
        retries=wanted.retries,
        key_variable=wanted.key_variable,
        adapter=wanted.adapter,
        adapters=cache_dir / "adapters",
    )
