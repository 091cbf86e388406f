"""Looks in the data: drawn once, scored once by the reference, the same for any micro-batch, with the rest left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from augment.occlusion import Crop
from augment.view import build
from datamodules.further_columns import FurtherColumns
from datamodules.preference import PreferenceDataModule
from datamodules.row_lengths import lengths_in_rows
from datamodules.shapes.source import ShapesSource
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DDPO, DPO, MDPO, Objective, SymMPO
from parallax.preference.judges import ByConstruction
from parallax.preference.proposers import ByView
from parallax.preference.selector import BestAgainstRest
from parallax.records import PreferencePair, Response
from parallax.records.images import FileImage
from tests import typed
from tests.lightning_modules.tiny_steps import OPTIM
from tests.parts import part

COUNT = 8
MDPO_CROP = part(MDPO, part(Crop))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def built(cache: Path, policy: Any, objective: Objective, micro: int = 3, **options: Any) -> PreferenceDataModule:
    """Eight scenes that are all to be described, so that every pair may have a partner."""
    view = build({"name": "diffusion", "noise_steps": 700})
    module = PreferenceDataModule(
        ShapesSource("pairs_habit_free", COUNT, kinds=["describe"]), ByView(view, 1, max_new_tokens=24), ByConstruction(),
        BestAgainstRest(1), cache_dir=cache, trainer=typed.trainer(batch_size=4, micro_batch_size=micro),
        generation=typed.generation(batch_size=8),
        looks=objective.looks, token_weights=objective.token_weights, **options,
    )  # fmt: skip
    module.build_pairs(policy)
    return module


def losses(module: PreferenceDataModule, policy: Any, objective: Objective, mode: str) -> dict[str, float]:
    """The loss of every pair in the first epoch."""
    module.reference_mode = mode
    fit = DPOModule(policy, objective, OPTIM, reference_mode=mode, total_steps=1)  # type: ignore[arg-type]
    found: dict[str, float] = {}
    with torch.no_grad():
        for step in module.epoch_loader():
            for batch in step.micro_batches:
                found |= dict(zip(batch.pair_ids, fit.losses(batch)[0].tolist(), strict=True))
    return found


@pytest.mark.parametrize(
    "objective",
    [MDPO_CROP, SymMPO(0.1, 0.5, 1.0, 1e-4), part(DDPO, gamma=3.0)],
    ids=lambda value: type(value).__name__,
)
def test_a_cached_reference_is_a_live_one_and_nothing_is_scored_twice(
    cache: Path, policy: Any, objective: Objective
) -> None:
    module = built(cache, policy, objective)
    assert module.fill_reference(policy) == len(module.pairs)
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.add_(0.02)  # the policy is no longer its reference
    cached, live = (losses(module, policy, objective, mode) for mode in ("cached", "live"))
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.sub_(0.02)
    assert cached.keys() == live.keys() == set(module.pair_ids)
    assert cached == pytest.approx(live, rel=1e-4, abs=1e-4)
    again = built(cache, policy, objective)
    assert again.fill_reference(policy) == 0 and again.references["reused"] == len(again.pairs)


def test_objectives_share_the_reference_of_what_they_have_in_common(cache: Path, policy: Any) -> None:
    built(cache, policy, part(DPO)).fill_reference(policy)
    built(cache, policy, MDPO_CROP).fill_reference(policy)
    other_weights = built(
        cache, policy, part(MDPO, part(Crop), beta=0.3, image_weight=5.0, anchor_weight=0.0, detach_clean=True)
    )
    assert other_weights.fill_reference(policy) == 0
    assert built(cache, policy, part(DPO)).fill_reference(policy) == 0
    wider = built(cache, policy, part(MDPO, part(Crop, scale=(0.3, 0.5))))
    assert wider.fill_reference(policy) == len(wider.pairs)  # another view


def test_micro_batches_change_no_loss(cache: Path, policy: Any) -> None:
    results = []
    for micro in (1, 4):
        module = built(cache, policy, MDPO_CROP, micro)
        module.fill_reference(policy)
        results.append(losses(module, policy, MDPO_CROP, "cached"))
    assert results[0] == pytest.approx(results[1], rel=1e-5, abs=1e-5)


def test_another_image_of_the_set_takes_the_views_place(cache: Path, policy: Any) -> None:
    objective = part(MDPO, other_image=True)
    module = built(cache, policy, objective)
    (batch,) = next(iter([step.micro_batches[:1] for step in _steps(module)]))
    (look,) = batch.looks
    places = [module.pair_ids.index(name) for name in batch.pair_ids]
    others = [module.further.partners[place] for place in places]
    for row, other in enumerate(others):
        assert other is not None
        shown = policy.encoder.encode_prompt(module.pairs[other].image.load(), "?").vision["pixel_values"]
        assert torch.equal(look.vision[row]["pixel_values"], shown)
    assert torch.equal(
        look.response_ids[:, 0, : look.response_ids.shape[2]],
        batch.scoring.response_ids[:, 0, : look.response_ids.shape[2]],
    )


def test_pairs_without_a_partner_are_dropped_and_counted(tmp_path: Path, policy: Any) -> None:
    view = build({"name": "diffusion", "noise_steps": 700})
    source = ShapesSource("pairs_habit_free", 12, kinds=["describe", "exist"])
    module = PreferenceDataModule(
        source, ByView(view, 1, max_new_tokens=24), ByConstruction(), BestAgainstRest(1, drop_equal=False), cache_dir=tmp_path,
        trainer=typed.trainer(batch_size=4), generation=typed.generation(batch_size=8), looks=SymMPO(0.1, 0.5, 1.0, 1e-4).looks,
    )  # fmt: skip
    module.build_pairs(policy)
    alone = [dropped for dropped in module.dropped if dropped.reason == "no_partner"]
    assert alone and len(alone) + len(module.pairs) <= 12
    assert None not in module.further.partners and len(module.further.partners) == len(module.pairs)


@pytest.mark.parametrize("shared", [True, False])
def test_looks_count_as_tokens_of_their_pair(shared: bool) -> None:
    lengths = lengths_in_rows([10, 20], np.array([[3, 5], [4, 2]]), shared=shared, looks=[np.array([[3], [4]])])
    if shared:  # one row of prompt and both answers, one of prompt and the look
        assert lengths.widths.tolist() == [18 + 13, 26 + 24] and lengths.rows == 1
    else:
        assert lengths.rows == 3 and lengths.widths.tolist() == [15, 24] and lengths.tokens.tolist() == [41, 70]


def _steps(module: PreferenceDataModule) -> Any:
    module.reference_mode = "live"
    return module.epoch_loader()


def test_the_data_s_own_rejected_image_takes_the_views_place(tmp_path: Path) -> None:
    clean, other = FileImage(str(tmp_path), "a.png"), FileImage(str(tmp_path), "b.png")
    pair = PreferencePair("s", "file", clean, "What?", Response("yes"), (Response("yes"),), rejected_images=(other,))
    plain = PreferencePair("t", "file", clean, "What?", Response("yes"), (Response("no"),))
    looks = tuple(MDPO_CROP.looks)
    further = FurtherColumns(looks)
    group = tuple(look for look in looks if look.image == "view")
    assert [look.response for look in group] == ["chosen"]
    own, view = further.shown([pair, plain], 0, group), further.shown([pair, plain], 1, group)
    assert own.conversation.images == (other,) and own.view.name == "identity"
    assert view.conversation.images == (clean,) and view.view.name == "crop"
    assert [response.text for response in own.responses] == ["yes"]
