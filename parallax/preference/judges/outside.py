"""Another model judges, behind an OpenAI-compatible address: whatever a judge asks the policy is asked there, picture and all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Interval

from parallax.models import processes
from parallax.models.generation.server import chat_messages
from parallax.models.http_client import HttpClient, ServiceError
from parallax.preference.judge import Judge, Scores
from parallax.preference.proposer import Ask, Generate, Unanswerable
from parallax.records import BadImage, Candidate, GenerationSpec, Sample
from parallax.records.candidate_store import CandidateStore
from parallax.records.plain_text import without_surrogates
from parallax.settings.ranges import Name, Natural, Positive

if TYPE_CHECKING:
    from parallax.models.policy import Policy

VERSION = 1  # of what is sent and how replies are read; a change that may change verdicts raises it
SHARD = 256  # replies kept at a time


class Outside(Judge):
    """Another judge (claims, self_critic) whose questions go to a server. Replies are kept as answers are, and found again.

    Args:
        judge: what is asked and how replies are read.
        url: of an API such as http://localhost:8000/v1.
        model: its name there.
        key_variable: environment variable with the server's key; where it is not set, none is sent.
        concurrency: requests under way at once, of each process.
        timeout: seconds one request may take.
        retries: how often a request that failed is made again.
        cache_dir: replies are kept in `candidates/` below it.
    """

    scores_leaves: ClassVar[bool] = False  # of sentence trees

    name = "outside"

    def __init__(
        self,
        judge: Judge,
        url: str,
        model: str,
        *,
        cache_dir: str | Path,
        key_variable: Name,
        concurrency: Annotated[int, Interval(ge=1, le=1000)],
        timeout: Positive,
        retries: Natural,
    ) -> None:
        self.inner, self.model, self.concurrency = judge, model, concurrency
        self.client = HttpClient(
            "the judge", url, setting="judge.url", key_variable=key_variable, timeout=timeout, retries=retries
        )
        self.store: CandidateStore | None = None
        self.cache_dir = Path(cache_dir).expanduser()

    def settings(self) -> dict[str, Any]:
        return {"judge": self.name, "model": self.model, "asks": self.inner.settings() or self.inner.name}

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> Sequence[Scores]:
        """What the other judge makes of the server's replies."""
        return self.inner.judge(policy, samples, candidates, seed=seed, generate=self.replies)

    def words(self, counts: Mapping[str, int]) -> str:
        return f"{self.model}, {self.inner.words(counts)}"

    def replies(self, asks: Sequence[Ask]) -> list[Candidate]:
        """The server's replies in order, from the store where they are known; several processes share what is missing.

        Raises:
            Unanswerable: some pictures cannot be read, or the server refuses some requests.
            ServiceError: the server is not there, or its replies are not of the form.
        """
        if self.store is None:
            self.store = CandidateStore(self.cache_dir / "candidates")
        why: dict[str, str] = {}
        keys: list[str] = []
        planned: dict[str, tuple[Ask, GenerationSpec]] = {}
        for ask in asks:
            try:
                spec = self._spec(ask)
                keys.append(spec.key())
                planned[keys[-1]] = ask, spec
            except BadImage as bad:
                why[ask.request.sample_id] = str(bad)
        self.store.refresh()
        missing = processes.broadcast([key for key in planned if key not in self.store])
        mine = missing[processes.rank() :: processes.world_size()]
        with ThreadPoolExecutor(self.concurrency) as pool:
            for start in range(0, len(mine), SHARD):
                made = list(pool.map(self._asked, (planned[key] for key in mine[start : start + SHARD])))
                self.store.add([reply for reply in made if isinstance(reply, Candidate)])
                why |= {sample: reason for reply in made if isinstance(reply, tuple) for sample, reason in [reply]}
        for refused in processes.all_gather(why):
            why |= refused
        self.store.refresh()
        if why:
            raise Unanswerable(why)
        found = self.store.get_many(keys)
        return [found[key] for key in keys]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _asked(self, planned: tuple[Ask, GenerationSpec]) -> Candidate | tuple[str, str]:
        """The reply, or (sample id, why there is none)."""
        ask, spec = planned
        request = ask.request
        try:
            pictures = [image.load() for image in request.conversation.images]
            body = {
                "model": self.model, "messages": chat_messages(request.conversation.messages, pictures), "temperature": 0,
                "max_tokens": request.decoding.max_new_tokens,
            }  # fmt: skip
            text, finished = self.client.post("chat/completions", body, _said)
        except BadImage as bad:
            return request.sample_id, str(bad)
        except ServiceError as error:
            if error.status in (400, 413, 422):
                return request.sample_id, f"sample {request.sample_id!r} could not be judged: {error}"
            raise
        return Candidate(spec.key(), request.sample_id, ask.role, ask.index, (), text, finished, spec)

    def _spec(self, ask: Ask) -> GenerationSpec:
        asked = ask.request.conversation
        return GenerationSpec(
            policy=f"outside: {self.model}", precision="", processor="", template="", image=asked.image_digest(),
            prompt=asked.written(), view=ask.request.view, decoding=ask.request.decoding, generator=f"outside/{VERSION}",
        )  # fmt: skip


def _said(reply: Mapping[str, Any]) -> tuple[str, bool]:
    """(text, whether it came to its end) of a chat completion. Raises ValueError, or what a wrong shape raises."""
    choice = reply["choices"][0]
    content = choice["message"]["content"]
    if not isinstance(content, str):
        raise ValueError(f"content is {type(content).__name__} and no text")
    return without_surrogates(content).strip(), choice.get("finish_reason") != "length"
