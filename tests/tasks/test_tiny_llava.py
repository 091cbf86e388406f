"""The built-in model: its recipe runs at micro size, its parts do what they say, and the shipped asset is as sick as told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from datamodules.shapes.questions import SHORT_KINDS
from datamodules.shapes.scene import COLOURS, SHAPES, generator, scene
from datamodules.shapes.source import ShapesSource, pope_questions
from parallax.small_world.llava import measure, vision
from parallax.small_world.llava.build import make_processor, make_tiny_llava, stage_key
from parallax.small_world.llava.language_side import Pointing
from parallax.small_world.llava.measure import probe_accuracy
from parallax.small_world.llava.rows import (
    ABSENT,
    LESSON_KINDS,
    LOOK_UP_KINDS,
    collate,
    draw_kind,
    encode,
    lesson,
    look_up_lessons,
)

ROOT = Path(__file__).resolve().parents[2]
ASSET = ROOT / "assets" / "tiny_llava"


def settings(**changes: Any) -> dict[str, Any]:
    loaded = OmegaConf.load(ROOT / "conf" / "tiny_llava" / "default.yaml")
    return OmegaConf.to_container(OmegaConf.merge(loaded, OmegaConf.create(changes)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor(settings())


@pytest.fixture(scope="module")
def asset() -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(ASSET).eval(), AutoProcessor.from_pretrained(ASSET)


def micro(output: Path, **changes: Any) -> dict[str, Any]:
    phase = {"scenes": 16, "steps": 2, "talk_rows": 2, "look_up_rows": 2}
    small = {
        "output": str(output),
        "stages": str(output.parent / "stages"),
        "threads": 1,
        "tokenizer": {"lessons": 60},
        "vision": {"hidden": 16, "intermediate": 16, "layers": 1, "heads": 2},
        "language": {"hidden": 16, "intermediate": 16, "heads": 2},
        "vision_training": {"scenes": 16, "steps": 2, "batch": 4},
        "look_up_training": {**phase, "talk_rows": 0},
        "talk_training": phase,
        "measure": {"scenes": 2, "noise_steps": [500]},
    }
    return settings(**{**small, **changes})


def test_the_whole_recipe_runs_at_micro_size_and_its_output_loads_with_plain_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    said: list[str] = []
    folder = make_tiny_llava(micro(tmp_path / "model"), said.append)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    loaded = AutoProcessor.from_pretrained(folder)
    assert model.config.model_type == "llava" and type(loaded).__name__ == "LlavaProcessor"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"settings", "versions", "measured", "parameters"} <= set(manifest)
    assert not {"output", "stages"} & set(manifest["settings"])
    assert {"probe", "eval_habit_free", "eval_habitual", "accuracy", "pope", "judging"} <= set(manifest["measured"])
    assert any("vision step" in line for line in said) and sum("language step" in line for line in said) == 4


def test_the_same_seed_makes_the_same_weights_and_kept_stages_change_nothing(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    said: list[str] = []
    first = make_tiny_llava(micro(tmp_path / "one", stages=""), said.append)
    again = make_tiny_llava(micro(tmp_path / "other"), said.append)
    assert not any("kept" in line for line in said)
    resumed = make_tiny_llava(micro(tmp_path / "third"), said.append)
    assert sum("kept" in line for line in said) == 3
    one, other, third = (load_file(folder / "model.safetensors") for folder in (first, again, resumed))
    assert all(torch.equal(one[key], other[key]) and torch.equal(one[key], third[key]) for key in one)


def test_a_stage_is_found_again_by_everything_that_shapes_it_and_nothing_else() -> None:
    plain = settings()
    talk = settings(talk_training={"steps": 7})
    assert stage_key("look_up_training", plain) == stage_key("look_up_training", talk)
    assert stage_key("talk_training", plain) != stage_key("talk_training", talk)
    eyes = settings(vision_training={"steps": 7})
    assert all(stage_key(name, plain) != stage_key(name, eyes) for name in ("vision_training", "talk_training"))
    assert stage_key("talk_training", plain) == stage_key("talk_training", settings(output="elsewhere", threads=1))


def test_a_wrong_picture_size_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="side 80 and patch 16.*must be 96"):
        make_tiny_llava(settings(output=str(tmp_path), image={"side": 80}))
    with pytest.raises(ValueError, match="layers is 3.*at least 4"):
        make_tiny_llava(settings(output=str(tmp_path), language={"layers": 3}))


@pytest.mark.parametrize(
    "text",
    ["The top row has a red circle.", "Ünïcödé 漢字 🙂\n\ttabs  and   spaces", "x = {'a': 1.5e-7}", "\x00\x7f", ""],
)
def test_any_text_comes_back_from_the_tokenizer(processor: Any, text: str) -> None:
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert processor.tokenizer.decode(ids) == text


def test_common_words_are_single_tokens_and_digits_stand_alone(processor: Any) -> None:
    pieces = processor.tokenizer.tokenize(" a purple triangle 42")
    assert pieces == ["Ġa", "Ġpurple", "Ġtriangle", "Ġ", "4", "2"]
    assert len(processor.tokenizer) <= 1000


def test_the_chat_template_holds_several_turns_and_one_image(processor: Any) -> None:
    image, ask = {"type": "image"}, {"type": "text", "text": "What do you see?"}
    chat = [
        {"role": "user", "content": [image, ask]},
        {"role": "assistant", "content": [{"type": "text", "text": "A sign."}]},
        {"role": "user", "content": "Read the number."},
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "USER: <image>\nWhat do you see? ASSISTANT: A sign.</s>USER: Read the number. ASSISTANT:"


@pytest.mark.parametrize("kind", dict.fromkeys((*LESSON_KINDS, *LOOK_UP_KINDS)))
def test_only_answers_and_their_end_tokens_are_learned(processor: Any, kind: str) -> None:
    made = scene("base_train", 5)
    turns = lesson(made, kind, generator("test"))
    coded = encode(processor, made, turns, 36, weighting=1.0)
    learned = [token for token, weight in zip(coded.ids, coded.weights, strict=True) if weight]
    assert processor.tokenizer.decode(learned) == "".join(f" {answer}</s>" for _, answer in turns)
    assert sum(coded.weights) == pytest.approx(len(turns))  # at weighting 1 every answer counts alike
    assert coded.ids.count(processor.image_token_id) == 36 and coded.ids[0] == processor.tokenizer.bos_token_id


def test_named_things_are_found_with_their_cells_and_linked_to_the_answer(processor: Any) -> None:
    made = scene("base_train", 9)
    there, other = made.things[0], made.things[1]
    absent = next(f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in made.objects)

    def read(question: str) -> tuple[list[tuple[str, int]], list[str]]:
        coded = encode(processor, made, [(question, "Yes.")], 36)
        words = [processor.tokenizer.decode(token).strip() for token in coded.ids]
        ((speaker, places),) = coded.asks
        assert words[speaker] == ":" and words[speaker + 1] == "Yes"
        return [(words[place], cell) for place, cell in coded.named], [words[place] for place in places]

    assert read(f"Is there a {there.phrase}?") == ([(there.shape, there.cell)], [there.shape])
    named, deciding = read(f"A: a {there.phrase} and a {other.phrase}. B: a {absent}.")
    assert named == [(there.shape, there.cell), (other.shape, other.cell), (absent.split()[1], ABSENT)]
    assert deciding == [absent.split()[1]]  # among many, what is not there decides
    assert read("What colour is the thing at the top left?") == ([("left", 0)], ["left"])


def test_conversations_in_one_row_are_what_they_are_alone(processor: Any) -> None:
    from parallax.small_world.llava.architecture import build_model, image_features
    from parallax.small_world.llava.language_side import answer_loss

    sizes = settings(language={"hidden": 32, "intermediate": 32, "heads": 2})
    torch.manual_seed(0)
    model = build_model(processor.tokenizer, sizes["image"], sizes["vision"], sizes["language"]).double()
    scenes = [scene("base_train", index) for index in (3, 4)]
    look_up = dict.fromkeys(LOOK_UP_KINDS, 1.0)
    rng = generator("rows")
    rows = [[encode(processor, s, turns, 36) for turns in look_up_lessons(s, look_up, rng)] for s in scenes]
    rows[1] = rows[1][:3]  # rows of different length
    shown = vision.normalise(vision.paint(scenes), 0.5, 0.5).double()
    seen = image_features(model, shown)
    pad, image = processor.tokenizer.pad_token_id, processor.image_token_id
    together = collate(rows, pad, image)
    loss, states = answer_loss(model, seen, together)
    total, weight = 0.0, 0.0
    for index, row in enumerate(rows):
        for coded in row:
            alone, _ = answer_loss(model, seen[index : index + 1], collate([[coded]], pad, image))
            total, weight = total + alone.item() * sum(coded.weights), weight + sum(coded.weights)
    assert loss.item() == pytest.approx(total / weight, rel=1e-9)
    pointing = Pointing(32, 36).double()
    helped = pointing(model.model.language_model, states, together, image)
    helped.backward()
    assert helped.item() > 0 and model.model.language_model.layers[1].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_an_empty_row_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no conversation"):
        collate([[]], 0, 3)


def test_lessons_are_drawn_in_the_proportions_asked_for() -> None:
    rng = np.random.default_rng(0)
    mix = dict.fromkeys(LESSON_KINDS, 0.0) | {"describe": 3.0, "judge": 1.0}
    kinds = [draw_kind(mix, rng) for _ in range(2000)]
    assert set(kinds) == {"describe", "judge"} and 0.7 < kinds.count("describe") / 2000 < 0.8


def test_bulk_pixels_equal_the_processors(processor: Any) -> None:
    samples = ShapesSource("tune_habit_free", 3)
    image = settings()["image"]
    bulk = vision.normalise(vision.paint([s.image.scene for s in samples]), image["mean"], image["std"])
    single = processor.image_processor([s.image.load() for s in samples], return_tensors="pt")["pixel_values"]
    assert torch.allclose(bulk, single, atol=1e-6)


def test_noise_at_step_500_has_the_schedules_two_coefficients() -> None:
    ones = torch.ones(64, 3, 32, 32)
    noisy = vision.diffuse(ones, 500, torch.Generator().manual_seed(0))
    assert noisy.mean().item() == pytest.approx(0.863, abs=2e-3) and noisy.std().item() == pytest.approx(
        0.505, abs=2e-3
    )


def test_cell_labels_and_patches_agree() -> None:
    made = scene("base_train", 9)
    labels = vision.cell_labels([made])[0]
    for thing in made.things:
        assert labels[thing.cell, :2].tolist() == [SHAPES.index(thing.shape), COLOURS.index(thing.colour)]
    tens, units = divmod(made.number, 10)
    assert labels[made.sign_cell, 2:].tolist() == [tens or 10, units]
    grid = torch.arange(36).view(1, 36, 1)
    assert vision.by_cell(grid)[0, 5, :, 0].tolist() == [16, 17, 22, 23]  # middle row, right column


def test_chair_by_hand() -> None:
    sample = next(iter(ShapesSource("tune_habit_free", 1)))
    there = sample.objects[0]
    absent = next(f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in sample.objects)
    figures = measure.chair([f"A {there}, a {absent} and a {absent}.", f"A {there}."], [sample, sample])
    assert figures["chair_i"] == 2 / 4 and figures["chair_s"] == 1 / 2
    assert figures["recall"] == pytest.approx(1 / len(sample.objects)) and figures["mentions"] == 2


def test_yes_no_figures_by_hand() -> None:
    samples = pope_questions("tune_habit_free", 1)
    figures = measure.yes_no(["Yes."] * 6, samples)
    assert figures["all"] == figures["random"] == 0.5 and figures["yes_share"] == 1.0


def test_the_shipped_asset_is_small_and_says_how_it_was_made() -> None:
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 15e6
    manifest = json.loads((ASSET / "manifest.json").read_text())
    assert manifest["settings"] == {key: value for key, value in settings().items() if key not in ("output", "stages")}
    assert manifest["measured"]["minutes_to_make"] < 60


def test_the_shipped_assets_eyes_hold_the_truth(asset: tuple[Any, Any]) -> None:
    model, _ = asset
    train = [scene("vision_train", index, 1) for index in range(300)]
    test = [scene("eval_habit_free", index) for index in range(150)]
    figures = probe_accuracy(model, train, test, settings()["image"])
    assert figures["shape"] >= 0.97 and figures["colour"] >= 0.97


@pytest.mark.slow
def test_the_shipped_assets_tongue_leans_on_habit(asset: tuple[Any, Any]) -> None:
    model, processor = asset
    image = settings()["image"]
    free, habitual = (ShapesSource(split, 300) for split in ("eval_habit_free", "eval_habitual"))
    said = measure.greedy_answers(model, processor, free, image)
    on_free = measure.chair(said, free)
    on_habitual = measure.chair(measure.greedy_answers(model, processor, habitual, image), habitual)
    assert 0.05 <= on_free["chair_i"] <= 0.20 and on_free["recall"] > 0.65
    assert on_habitual["chair_i"] < on_free["chair_i"] / 2
    assert all(text.endswith(".") and "The sign reads" in text for text in said)
    noisy = measure.greedy_answers(model, processor, free, image, noise_step=500)
    assert 0.5 <= measure.differing_share(said, noisy) <= 0.98
    assert measure.chair(noisy, free)["chair_i"] > 1.3 * on_free["chair_i"]


def test_the_shipped_asset_finds_what_it_is_asked_for(asset: tuple[Any, Any]) -> None:
    model, processor = asset
    image = settings()["image"]
    questions = ShapesSource("eval_habit_free", 240, kinds=SHORT_KINDS)
    right = measure.accuracy_by_kind(measure.greedy_answers(model, processor, questions, image), questions)
    assert right["exist"] > 0.9 and right["where"] > 0.9
    answers: dict[str, Counter] = {kind: Counter(q.answer for q in questions if q.kind == kind) for kind in SHORT_KINDS}
    chance = {kind: counts.most_common(1)[0][1] / counts.total() for kind, counts in answers.items()}
    assert all(right[kind] > chance[kind] + 0.1 for kind in SHORT_KINDS if kind != "relation")
    pope = pope_questions("eval_habit_free", 30)
    figures = measure.yes_no(measure.greedy_answers(model, processor, pope, image), pope)
    assert figures["all"] > 0.9 and 0.4 < figures["yes_share"] < 0.6


@pytest.mark.slow
def test_the_shipped_asset_judges_descriptions_and_does_not_look_at_their_order(asset: tuple[Any, Any]) -> None:
    model, processor = asset
    figures = measure.judging(model, processor, "eval_habit_free", 100, settings()["image"], 0)
    assert figures["right"] > 0.85 and figures["agreed"] > 0.8 and 0.4 < figures["first"] < 0.6
