"""Generation on the predict loop: the same candidates as a direct call, stored as they come."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision, Precision

from lightning_modules.pair_builder import PairBuilderModule, PlannedGeneration, SealedShare, Share, generate_candidates
from lightning_modules.trainer import make_trainer
from parallax.models.generation.requests import GenerationRequest
from parallax.models.policy import Policy
from parallax.records import BadImage, Decoding, ViewSpec
from parallax.records.candidate_store import CandidateStore
from tests import typed
from tests.lightning_modules.tiny_steps import NewPolicy, picture


@dataclass(frozen=True)
class Drawn:
    """One of the drawn pictures; number 3 cannot be read."""

    number: int

    def load(self) -> Image.Image:
        if self.number == 3:
            raise BadImage("picture 3 is torn; leave it out")
        return picture(self.number)

    def digest(self) -> str:
        return f"{self.number:064x}"

    def describe(self) -> str:
        return f"picture {self.number}"


def plan(policy: Policy, numbers: list[int]) -> list[PlannedGeneration]:
    planned = []
    for number in numbers:
        request = GenerationRequest(f"s{number}", Drawn(number), "What is here?", ViewSpec(), Decoding(6))
        planned.append(PlannedGeneration("chosen", 0, request, policy.spec(request)))
    return planned


def test_the_predict_loop_stores_what_a_direct_call_gives(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    planned = plan(policy, [0, 1, 2, 4, 5])
    store, counted = CandidateStore(tmp_path / "candidates"), []
    trainer = make_trainer(typed.trainer(accelerator="cpu"), folder=tmp_path)
    counts = generate_candidates(policy, planned, store, trainer, batch_size=2, progress=counted.append)
    assert counts.rows == 5 and 0.0 < counts.wait_share < 1.0
    assert counted == [2, 2, 1]
    assert len(list((tmp_path / "candidates").glob("*.parquet"))) == 3  # one shard per batch
    found = store.get_many([p.key for p in planned])
    direct = policy.generate([p.request for p in planned], batch_size=5)
    for item, answer in zip(planned, direct, strict=True):
        candidate = found[item.key]
        assert (candidate.token_ids, candidate.text, candidate.finished) == (
            answer.token_ids,
            answer.text,
            answer.finished,
        )
        assert (candidate.role, candidate.index, candidate.sample_id) == ("chosen", 0, item.request.sample_id)
        assert candidate.spec == item.spec


def test_requests_that_cannot_be_answered_are_set_aside(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    planned, aside = plan(policy, [2, 3, 4]), []
    store = CandidateStore(tmp_path)
    trainer = make_trainer(typed.trainer(accelerator="cpu"), folder=tmp_path)
    generate_candidates(
        policy, planned, store, trainer, set_aside=lambda request, why: aside.append((request.sample_id, why))
    )
    assert aside == [("s3", "picture 3 is torn; leave it out")]
    assert [p.key in store for p in planned] == [True, False, True]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_request_belongs_to_exactly_one_process(processes: int) -> None:
    planned = list(range(11))
    shares = [Share(planned, 2, rank, processes) for rank in range(processes)]  # type: ignore[arg-type]
    assert sorted(item for share in shares for index in range(len(share)) for item in share[index]) == planned  # type: ignore[type-var]
    sizes = [len(share.planned) for share in shares]
    assert max(sizes) - min(sizes) <= 2


def test_a_process_without_a_share_has_nothing_to_do() -> None:
    assert len(Share([], 2)) == 0
    assert len(Share([1, 2], 2, rank=1, world_size=2)) == 0  # type: ignore[list-item]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_trainers_precision_neither_casts_requests_nor_decides_how_they_are_answered(precision: str) -> None:
    plugin: Precision = DoublePrecision() if precision == "64-true" else HalfPrecision(precision)  # type: ignore[arg-type]
    planned: Any = [Drawn(1), Drawn(2)]  # frozen, as requests are
    seen: list[Any] = []
    module = PairBuilderModule(lambda share: seen.extend([torch.get_default_dtype(), *share]))
    with plugin.forward_context():
        inside = torch.get_default_dtype()
        assert module.predict_step(plugin.convert_input(SealedShare(planned)), 0) == 2
        assert torch.get_default_dtype() == inside != torch.float32
    assert seen == [torch.float32, *planned]
