"""A conversation with a system text and two images goes from file to training; one image with one question is what it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.encoded_steps import PairBatches
from datamodules.formats.pair_export import export_pairs
from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.preference import PreferenceDataModule
from datamodules.supervised import DialogueBatches
from parallax.models.generation.requests import GenerationRequest
from parallax.models.scoring.log_probs import separate_sequences
from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.proposers.ground_truth import Given
from parallax.preference.selector import BestAgainstRest
from parallax.records import Conversation, Decoding, Message, PreferencePair, ViewSpec, fingerprint
from parallax.records.disk_pairs import DiskPairs
from parallax.records.pair_store import PairSet, images_of
from tests import typed

ONE, TWO = "gqa/images/1.jpg", "gqa/images/2.jpg"


def rows() -> list[dict[str, Any]]:
    asked = [
        {"role": "system", "content": "Compare."},
        {"role": "user", "content": "<image>Left, <image> right: which is higher?"},
    ]
    plain = [{"role": "user", "content": "<image>What?"}]
    return [
        {
            "messages": [*asked, {"role": "assistant", "content": f"The {n}."}],
            "rejected_response": "None.",
            "images": [ONE, TWO],
        }
        for n in ("first", "second")
    ] + [
        {"messages": [*plain, {"role": "assistant", "content": "This."}], "images": [ONE], "rejected_images": [TWO]},
        {
            "messages": [*plain, {"role": "assistant", "content": "This."}],
            "images": [ONE],
            "rejected_response": "That.",
        },
    ]


@pytest.fixture
def source(root: Path, tmp_path: Path) -> PreferenceFileSource:
    (tmp_path / "swift.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return PreferenceFileSource(tmp_path / "swift.jsonl", root)


def test_the_plain_case_is_named_by_image_and_question_alone(source: PreferenceFileSource) -> None:
    pair = source.pairs[3]
    assert pair.messages == () and pair.conversation == Conversation.plain(pair.image, "What?")
    answers = {"responses": ["This.", "That."]}
    assert pair.id == fingerprint({"image": pair.image.digest(), "prompt": "What?", **answers})
    request = GenerationRequest.about(source[3], ViewSpec(), Decoding(4))
    assert request == GenerationRequest(pair.sample_id, pair.image, "What?", ViewSpec(), Decoding(4))


def test_a_conversation_keeps_its_messages_and_images_in_order(source: PreferenceFileSource) -> None:
    first, second, compared, _ = source.pairs
    left, right = first.images
    assert first.messages == (
        Message("system", ("Compare.",)),
        Message("user", (left, "Left, ", right, " right: which is higher?")),
    )
    assert (left.describe(), right.describe()) == (ONE, TWO) and first.id != second.id
    assert source[0].conversation() == first.conversation and source[0].answer == "The first."
    assert compared.compares_images and [image.describe() for image in compared.rejected_images] == [TWO]
    other = replace(compared, rejected_images=())
    assert other.id != compared.id


def test_conversations_come_back_from_memory_and_disk(source: PreferenceFileSource, tmp_path: Path) -> None:
    assert list(DiskPairs(source.pairs)) == source.pairs
    PairSet(tmp_path / "set").write(source.pairs)
    assert PairSet(tmp_path / "set").load(images_of(source.pairs)) == source.pairs
    assert PreferenceFileSource(tmp_path / "set", source.images.image_root).pairs == source.pairs


@pytest.mark.parametrize("form", ["trl", "ms_swift", "llama_factory", "llava"])
def test_every_export_carries_what_its_format_can_say(source: PreferenceFileSource, tmp_path: Path, form: str) -> None:
    done = export_pairs(source.pairs, tmp_path / form, form, card=lambda done: f"{done.pairs} of {done.images}")
    back = PreferenceFileSource(done.folder / done.file, None if form == "trl" else done.folder).pairs
    kept = source.pairs if form == "ms_swift" else [pair for pair in source.pairs if not pair.compares_images]

    def told(pair: PreferencePair) -> Any:
        images = [image.load().tobytes() for image in (*pair.images, *pair.rejected_images)]
        return pair.conversation.readable(), pair.chosen.text, [r.text for r in pair.rejected], images

    assert [told(pair) for pair in back] == [told(pair) for pair in kept]
    assert sum(done.dropped.values()) == len(source.pairs) - len(kept)
    assert (done.folder / "README.md").read_text() == f"{len(kept)} of 2"


def test_two_images_are_scored_the_same_in_one_row_or_two_and_generated_from(
    source: PreferenceFileSource, policy: Any
) -> None:
    pairs = source.pairs[:2]
    batch = PairBatches(pairs, [pair.id for pair in pairs], policy.encoder)([0, 1])
    assert batch.scoring.vision[0]["pixel_values"].shape[0] == 2
    layout = policy.layout
    with torch.no_grad():
        shared = policy.score(batch.scoring).total
        policy.layout = separate_sequences
        separate = policy.score(batch.scoring).total
        policy.layout = layout
    assert layout is not separate_sequences and torch.allclose(shared, separate, atol=1e-4)
    one = Conversation((pairs[0].messages[0], Message("user", pairs[0].messages[1].parts[:2])))
    asked = [GenerationRequest.about(source[0], ViewSpec(), Decoding(5))]
    assert policy.generate(asked)[0].text and policy.spec(asked[0]).image == fingerprint(
        [i.digest() for i in pairs[0].images]
    )
    assert len(policy.encoder.encode_conversation(one).input_ids) < int(batch.scoring.prompt_lengths[0])


@pytest.mark.parametrize(("images", "changed"), [("all", [True, True]), ("last", [False, True])])
def test_a_view_acts_on_the_images_it_is_told_to(
    source: PreferenceFileSource, policy: Any, images: str, changed: list[bool]
) -> None:
    asked = source.pairs[0].conversation
    clean = policy.encoder.encode_conversation(asked).vision["pixel_values"]
    params = {"noise_steps": 500} | ({"images": images} if images != "all" else {})
    noisy = policy.encoder.encode_conversation(asked, ViewSpec("diffusion", params, 7)).vision["pixel_values"]
    assert [not torch.equal(a, b) for a, b in zip(clean, noisy, strict=True)] == changed
    if images == "all":
        noise = noisy - clean
        assert not torch.allclose(noise[0], noise[1])  # each image has noise of its own


def test_one_drawn_image_is_changed(source: PreferenceFileSource, policy: Any) -> None:
    asked = source.pairs[0].conversation
    clean = policy.encoder.encode_conversation(asked).vision["pixel_values"]
    drawn = set()
    for seed in range(8):
        view = ViewSpec("diffusion", {"noise_steps": 500, "images": "one"}, seed)
        noisy = policy.encoder.encode_conversation(asked, view).vision["pixel_values"]
        (place,) = [n for n in range(2) if not torch.equal(clean[n], noisy[n])]
        drawn.add(place)
    assert drawn == {0, 1}


def test_a_dialogue_may_show_an_image_in_a_later_question(source: PreferenceFileSource, policy: Any) -> None:
    sample = source[0]
    later = replace(sample.turns[0], question="And here?", answer="A tower.", parts=(sample.images[1], "And here?"))
    talk = replace(sample, turns=(*sample.turns, later))
    scoring = DialogueBatches([talk], policy.encoder)([0]).scoring
    assert scoring.vision[0]["pixel_values"].shape[0] == 3
    learned = scoring.response_ids[0, 0][scoring.counted()[0, 0]].tolist()
    chat = policy.encoder.chat
    assert learned == [*chat.encode_response("The first."), *chat.encode_response("A tower.")]


def test_pairs_of_conversations_are_built_and_what_the_objective_cannot_learn_from_is_set_aside(
    source: PreferenceFileSource, tmp_path: Path, policy: Any
) -> None:
    module = PreferenceDataModule(
        source, Given(), ByConstruction(), BestAgainstRest(), cache_dir=tmp_path, trainer=typed.trainer(batch_size=2)
    )
    report = module.build_pairs(policy)
    assert (report.kept, report.skipped) == (3, {"rejected_images": 1})
    assert module.fill_reference(policy) == 3
    assert sum(len(step) for step in module.epoch_loader()) == 3


def test_a_template_without_a_place_for_a_text_is_found_out(
    source: PreferenceFileSource, policy: Any, monkeypatch: Any
) -> None:
    from parallax.models.encoding.chat import CannotWrite

    monkeypatch.setattr(
        policy.encoder.processor, "chat_template",
        "{% for m in messages %}{% if m.role != 'system' %}{% for p in m.content %}"
        "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}",
    )  # fmt: skip
    with pytest.raises(CannotWrite, match="leaves out a text of the system"):
        policy.encoder.render(source.pairs[0].conversation)
