"""One contract for whoever answers: the policy in this process, and a server with the same weights (a real one, over HTTP)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from augment.diffusion import Diffusion
from augment.registry import spec_of
from parallax.models.batch import EncodedPrompt
from parallax.models.generation.requests import GenerationRequest
from parallax.models.generation.server import ServerError, ServerGenerator, answerer_for, lost_in_picture
from parallax.models.http_client import HttpClient
from parallax.models.policy import Policy
from parallax.records import BadImage, Decoding, ViewSpec
from tests import typed
from tests.faults import Injected
from tests.models.tiny_server import TinyServer, serving


@dataclass(frozen=True)
class Drawn:
    """A drawn picture; number 3 cannot be read."""

    number: int

    def load(self) -> Image.Image:
        if self.number == 3:
            raise BadImage("image 3 is torn; leave it out")
        picture = Image.new("RGB", (50, 40), (20 * self.number % 255, 90, 160))
        ImageDraw.Draw(picture).ellipse([5 + self.number, 8, 30, 35], fill=(220, 30 * self.number % 255, 40))
        return picture

    def digest(self) -> str:
        return f"{self.number:064x}"

    def describe(self) -> str:
        return f"picture {self.number}"


def request(
    number: int, prompt: str = "What is here?", new: int = 6, view: ViewSpec | None = None
) -> GenerationRequest:
    return GenerationRequest(f"s{number}", Drawn(number), prompt, view or ViewSpec(), Decoding(new))


@pytest.fixture
def server(make_policy: Callable[..., Policy]) -> Iterator[TinyServer]:
    with serving(TinyServer(make_policy())) as running:
        yield running


def server_for(policy: Policy, server: TinyServer, **options: Any) -> ServerGenerator:
    options = {"model": "tiny", "concurrency": 2, "retries": 2, "timeout": 60.0, **options}
    return ServerGenerator(policy, url=server.url, **options)


@pytest.fixture(params=["transformers", "server"])
def generator(request: pytest.FixtureRequest, make_policy: Callable[..., Policy]) -> Any:
    policy = make_policy()
    return policy if request.param == "transformers" else server_for(policy, request.getfixturevalue("server"))


def test_answers_come_in_order_whatever_the_batches(generator: Any, make_policy: Callable[..., Policy]) -> None:
    asked = [request(n, "What is here?" + " Say more." * (n % 2), 4 + n) for n in (0, 1, 2, 4, 5)]
    expected = make_policy().generate(asked, batch_size=1)
    told: list[int] = []
    kept: dict[int, Any] = {}
    got = generator.generate(asked, batch_size=2, progress=told.append, finished=kept.update)
    assert [(g.token_ids, g.text, g.finished) for g in got] == [(g.token_ids, g.text, g.finished) for g in expected]
    assert sum(told) == 5 and kept == dict(enumerate(got))
    assert generator.last_generation.rows == 5
    assert generator.last_generation.tokens == sum(len(g.token_ids) for g in got)
    assert generator.generate([]) == []


def test_what_cannot_be_answered_is_set_aside_or_raises(generator: Any) -> None:
    aside: list[tuple[str, str]] = []
    asked = [request(2), request(3), request(4, "word " * 4000)]
    got = generator.generate(asked, set_aside=lambda r, why: aside.append((r.sample_id, why)))
    assert [answer is None for answer in got] == [False, True, True]
    assert {name for name, _ in aside} == {"s3", "s4"}
    assert all("context" in why for name, why in aside if name == "s4")
    with pytest.raises(BadImage):
        generator.generate([request(3)])


def test_an_answer_is_named_by_all_that_determines_it(generator: Any, make_policy: Callable[..., Policy]) -> None:
    spec = generator.spec(request(1))
    assert spec.key() == generator.spec(request(1)).key() != generator.spec(request(1, new=7)).key()
    assert spec.policy == make_policy().fingerprint()
    other = server_for(make_policy(), TinyServer(make_policy(), url="http://127.0.0.1:1/v1"))
    assert (spec.key() == other.spec(request(1)).key()) == isinstance(generator, ServerGenerator)


def test_text_without_token_ids_is_tokenised(server: TinyServer, make_policy: Callable[..., Policy]) -> None:
    server.gives_token_ids = False
    said = server_for(make_policy(), server).generate([request(1)])[0]
    local = make_policy().generate([request(1)])[0]
    assert said is not None and (said.text, said.finished) == (local.text, local.finished)


def test_an_answer_goes_on_from_its_start_with_its_image_or_without(
    generator: Any, make_policy: Callable[..., Policy]
) -> None:
    encoder = make_policy().encoder
    (whole,) = make_policy().generate([request(1, new=8)])
    begun = encoder.decode(whole.token_ids[:4])
    asked = [replace(request(1, new=8), answer_start=begun, view=view) for view in (ViewSpec(), ViewSpec("no_image"))]
    specs = [generator.spec(each).key() for each in (request(1, new=8), *asked)]
    assert len(set(specs)) == 3
    for said, view in zip(generator.generate(asked), (ViewSpec(), ViewSpec("no_image")), strict=True):
        start = encoder.encode_start(begun)
        prompt = encoder.encode_prompt(Drawn(1).load(), "What is here?", view)
        rest = plain_greedy(make_policy(), prompt.followed_by(start), 8)
        assert said.token_ids == (*start, *rest) and said.text == encoder.decode(said.token_ids)
        assert said.text.startswith(begun.strip())


def test_a_server_that_cannot_go_on_from_a_start_is_refused(
    server: TinyServer, make_policy: Callable[..., Policy]
) -> None:
    begun = replace(request(1), answer_start="There is")
    server.gives_token_ids = False
    with pytest.raises(ServerError, match="does not say what it reads.*generation=transformers"):
        server_for(make_policy(), server).generate([begun])
    server.gives_token_ids, server.continues = True, False
    with pytest.raises(ServerError, match="reads the prompt as"):
        server_for(make_policy(), server).generate([begun])


def plain_greedy(policy: Policy, prompt: EncodedPrompt, new: int) -> list[int]:
    """The library's own generate on what the model is to read."""
    said = policy.model.generate(
        input_ids=prompt.input_ids[None], max_new_tokens=new, do_sample=False,
        suppress_tokens=sorted(policy.encoder.never_said), eos_token_id=list(policy.encoder.end_token_ids), **prompt.vision,
    )  # fmt: skip
    ids: list[int] = said[0, len(prompt.input_ids) :].tolist()
    return ids


def test_a_server_that_reads_another_prompt_is_refused(
    server: TinyServer, make_policy: Callable[..., Policy], caplog: pytest.LogCaptureFixture
) -> None:
    server.drops_bos = True
    with pytest.raises(ServerError, match=r"(?s)reads the prompt as 'USER.*\*\d+.* the policy as '<s> ?USER"):
        server_for(make_policy(), server, concurrency=1).generate([request(1), request(2)])
    assert len(server.asked) <= 2  # it stops at once
    server.drops_bos = False
    generator = server_for(make_policy(), server, concurrency=1)
    generator.generate([request(1)])
    server.drops_bos = True  # one prompt among others, as with control tokens in its text
    aside: list[str] = []
    assert generator.generate([request(2)], set_aside=lambda r, why: aside.append(why)) == [None]
    assert "control tokens" in aside[0]
    server.drops_bos, server.more_image_tokens = False, 3
    with caplog.at_level("WARNING"):
        server_for(make_policy(), server).generate([request(n) for n in (0, 1, 2)])
    assert caplog.text.count("it looks at pictures at another size") == 1


def test_nothing_but_what_was_asked_for_shapes_an_answer(
    server: TinyServer, make_policy: Callable[..., Policy]
) -> None:
    """vLLM takes what is not named from the model's generation_config.json."""
    drawn = GenerationRequest("s1", Drawn(1), "What is here?", ViewSpec(), Decoding(4, 0.7, 0.9, 2**40 + 3))
    server_for(make_policy(), server).generate([drawn, request(2)])
    for body in server.asked:
        assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
        assert body["add_special_tokens"] is True
    sampled, greedy = sorted(server.asked, key=lambda body: -body["temperature"])
    assert (sampled["temperature"], sampled["top_p"], sampled["seed"]) == (0.7, 0.9, (2**40 + 3) % 2**31)
    assert greedy["temperature"] == 0 and "seed" not in greedy


def test_failures_are_tried_again_and_requests_are_bounded(
    server: TinyServer, make_policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpClient, "_wait", lambda *_: 0.01)
    server.failures = 2
    generator = server_for(make_policy(), server, concurrency=3)
    got = generator.generate([request(n) for n in (0, 1, 2, 4, 5, 6)])
    assert None not in got and len(server.asked) == 8 and server.most_at_once <= 3
    server.failures = 99
    with pytest.raises(ServerError, match="HTTP 503.*tried 3 times.*the same command goes on"):
        generator.generate([request(1)])


def _choice(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda reply: reply["choices"][0].update(changes)


UNBELIEVABLE = {
    "an id beyond the vocabulary": (_choice(token_ids=[5, 10**9]), "vocabulary"),
    "a negative id": (_choice(token_ids=[-1]), "vocabulary"),
    "ids that are no numbers": (_choice(token_ids=[True, "5", 2.0]), "no list of whole numbers"),
    "more tokens than asked for": (_choice(token_ids=[5] * 200_000), "at most 16 were asked for"),
    "more text than asked for": (_choice(token_ids=None, message={"content": "a b " * 1000}), "at most 16 were asked for"),
    "a list as text": (_choice(token_ids=None, message={"content": ["a"]}), "content is list and no text"),
    "a reason that is none": (_choice(finish_reason="content_filter"), "neither stop nor length"),
    "no answer": (lambda reply: reply.update(choices=[]), "not of the OpenAI form"),
    "a prompt of other numbers": (lambda reply: reply.update(prompt_token_ids=[10**9]), "vocabulary"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNBELIEVABLE)
def test_what_cannot_be_an_answer_stops_the_run_and_what_was_done_is_kept(
    kind: str,
    server: TinyServer,
    make_policy: Callable[..., Policy],
    monkeypatch: pytest.MonkeyPatch,
    injected: Injected,
) -> None:
    monkeypatch.setattr(HttpClient, "_wait", lambda *_: 0.01)
    generator, kept = server_for(make_policy(), server, concurrency=1), []
    change, reason = UNBELIEVABLE[kind]

    def tampers(reply: dict[str, Any]) -> None:
        if len(server.asked) > 1:
            change(reply)

    server.tampers = tampers
    with pytest.raises(ServerError, match=reason):
        generator.generate([request(0, "What?", 16), request(1, "What?", 16)], finished=lambda made: kept.extend(made))
    assert kept == [0]
    injected(
        "attack: what cannot be an answer, from a server that generates",
        told=1,
        says="stopped; answers before it are kept",
    )


def test_control_tokens_inside_an_answer_set_the_sample_aside(
    server: TinyServer, make_policy: Callable[..., Policy]
) -> None:
    policy, why = make_policy(), []
    image = policy.encoder.tokenizer.convert_tokens_to_ids(policy.encoder.chat.processor.image_token)
    for inside in (image, policy.encoder.end_token_ids[0]):
        server.tampers = _choice(token_ids=[5, inside, 6], finish_reason="length")
        generator = server_for(policy, server)
        assert generator.generate([request(0)], set_aside=lambda _, reason: why.append(reason)) == [None]
    assert len(why) == 2 and all("holds control tokens" in reason for reason in why)


def test_a_learned_adapter_is_loaded_by_the_server(
    server: TinyServer, make_policy: Callable[..., Policy], tmp_path: Path
) -> None:
    learned = make_policy(learned=True)
    generator = server_for(learned, server, adapters=tmp_path)
    expected = learned.generate([request(1)])[0]
    assert expected.token_ids != make_policy().generate([request(1)])[0].token_ids
    assert generator.generate([request(1)])[0] == expected
    (name,) = server.adapters
    assert learned.fingerprint().startswith(name.removeprefix("parallax-"))
    with pytest.raises(ServerError, match="does not serve 'mine'"):
        server_for(learned, server, adapter="mine").generate([request(1)])


def test_a_server_that_is_not_there_or_has_another_model_is_named(
    server: TinyServer, make_policy: Callable[..., Policy]
) -> None:
    with pytest.raises(ServerError, match="does not serve 'huge', it has tiny"):
        server_for(make_policy(), server, model="huge").generate([request(1)])
    nowhere = ServerGenerator(make_policy(), url="http://127.0.0.1:9/v1", model="tiny", retries=0, timeout=2.0)
    with pytest.raises(ServerError, match=r"no server at generation\.url"):
        nowhere.generate([request(1)])


def test_noise_is_carried_as_nearly_as_a_picture_can(make_policy: Callable[..., Policy]) -> None:
    """Rounding costs under a hundredth; noise cut off at black and white grows with the noise step. Clean pictures are exact."""
    encoder = make_policy().encoder
    lost = {
        steps: lost_in_picture(encoder, request(1, view=spec_of(Diffusion(noise_steps=steps), 7)))
        for steps in (0, 200, 500, 900)
    }
    assert lost_in_picture(encoder, request(1)) == 0.0
    assert lost[0] < 0.02 and lost[0] < lost[200] < lost[500] < lost[900] < 1.0
    print(lost)


def test_the_configuration_says_who_answers(make_policy: Callable[..., Policy], tmp_path: Path) -> None:
    policy = make_policy()
    assert answerer_for(policy, typed.generation(), tmp_path) is policy
    keys = {"url": "http://h:1/v1", "model": "m", "concurrency": 4, "timeout": 5, "retries": 1, "key_variable": "K"}
    made = answerer_for(policy, typed.generation(backend="server", adapter="load", **keys), tmp_path)
    assert isinstance(made, ServerGenerator) and made.adapters == tmp_path / "adapters"
