"""An image that the processor refuses and an answer that holds a control token are set aside by name, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.build import outcomes_of_pairs
from datamodules.inspection import inspect
from parallax.models.encoding.control_tokens import UnusableText
from parallax.models.generation.requests import GenerationRequest
from parallax.preference.selector import BestAgainstRest
from parallax.records import BadImage, Decoding, PreferencePair, RefusedImage, Response, Sample, Turn, ViewSpec, naming
from parallax.records.images import FileImage
from parallax.records.skipped import SkippedLog
from tests.models.examples import Picture
from tests.models.family_walk.own_processors import OWN
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy

THIN = Picture(9, (700, 3))  # Qwen2.5-VL takes no image that is 200 times as long as it is high


def request(number: int, image: Picture | None = None, temperature: float = 0.0) -> GenerationRequest:
    decoding = Decoding(6, temperature, seed=number if temperature else 0)
    return GenerationRequest(f"s{number}", image or Picture(number), "What is this?", ViewSpec(), decoding)


def test_a_refused_image_is_named_with_its_size_and_the_next_one_is_read(make_policy: Any) -> None:
    encoder = make_policy("qwen2_5_vl").encoder
    with pytest.raises(RefusedImage, match=r"is refused by Qwen2VLImageProcessor\w* \(700 × 3 pixels: "):
        encoder.encode_prompt(THIN.load(), "What?")
    with pytest.raises(BadImage, match=f"image '{THIN.describe()}' is refused by"), naming(THIN):
        encoder.encode_prompt(THIN.load(), "What?")
    assert len(encoder.encode_prompt(Picture(1).load(), "What?").input_ids)
    assert encoder.image_tokens.splices, "the odd image was the first, and says nothing about the processor"


def test_generation_sets_a_refused_image_aside(make_policy: Any) -> None:
    policy = make_policy("qwen2_5_vl")
    refused: list[str] = []
    asked = [request(0, image=THIN), request(1)]
    answers = policy.generate(asked, set_aside=lambda asked, why: refused.append(f"{asked.sample_id}: {why}"))
    assert answers[0] is None and answers[1] is not None
    assert len(refused) == 1 and "is refused by" in refused[0] and THIN.describe() in refused[0]


def pair(name: str, image: Picture, *answers: Response) -> PreferencePair:
    return PreferencePair(name, "test", image, "What?", answers[0], answers[1:])


def test_pairs_with_an_odd_image_or_answer_are_set_aside_with_the_reason(make_policy: Any) -> None:
    encoder = make_policy("qwen2_5_vl").encoder
    image_token = encoder.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    good, other = Response("A cup."), Response("A dog.")
    odd = Response("A cup.", token_ids=(70, image_token, encoder.end_token_ids[0]))
    skipped = SkippedLog(None, max_share=0.9, total=3)
    pairs = [pair("thin", THIN, good, other), pair("odd", Picture(1), good, odd), pair("fine", Picture(2), good, other)]
    kept = list(outcomes_of_pairs(pairs, selector=BestAgainstRest(), encoder=encoder, skipped=skipped))
    assert len(kept) == 1 and skipped.counts() == {"bad_image": 1, "bad_text": 1}
    why = {item.item: item.why for item in skipped.items.values()}
    assert THIN.describe() in why["thin"] and "holds the control token '<|image_pad|>'" in why["odd"]


def test_check_data_counts_a_refused_image_as_one_that_cannot_be_used(make_policy: Any, tmp_path: Path) -> None:
    encoder = make_policy("qwen2_5_vl").encoder
    for name, picture in (("thin.png", THIN), ("fine.png", Picture(1))):
        picture.load().save(tmp_path / name)
    images = [FileImage(str(tmp_path), name) for name in ("thin.png", "fine.png")]
    samples = [Sample(f"s{n}", "test", image, (Turn("What?"),)) for n, image in enumerate(images)]
    found = inspect(samples, encoder=lambda: encoder)
    assert sum(found.refused.values()) == 1 and len(found.tokens) == 1
    assert "image 'thin.png' is refused by" in str(found.refused_why)


def test_control_tokens_are_never_said_greedy_or_sampled(make_policy: Any) -> None:
    policy = make_policy("llava")
    never = sorted(policy.encoder.never_said)
    head = policy.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[never] = 3 * head.weight[never] + 1  # the network likes them best
    asked = [request(n, temperature=float(n % 2)) for n in range(6)]
    for answer in policy.generate(asked):
        assert answer.token_ids and policy.encoder.never_said.isdisjoint(answer.token_ids)
    alone = [policy.generate([one])[0] for one in asked]
    assert alone == policy.generate(asked), "a second pick in one row changes no other row"


def test_a_text_with_an_image_token_is_an_answer_and_ids_with_one_are_none(make_policy: Any) -> None:
    encoder = make_policy("llava").encoder
    assert encoder.never_said.isdisjoint(encoder.encode_response(Response("The sign says <image>.")).tolist())
    with pytest.raises(UnusableText, match="holds the control token '<image>'"):
        encoder.encode_response(Response("A sign.", token_ids=(encoder.tokenizer.convert_tokens_to_ids("<image>"),)))


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strips, a dot, and every kind of pixel that files hold."""
    folder = tmp_path_factory.mktemp("odd")
    for name, size in (
        ("strip", (700, 3)),
        ("post", (3, 700)),
        ("thread", (10000, 10)),
        ("dot", (1, 1)),
        ("fine", (80, 60)),
    ):
        Picture(1, size).load().save(folder / f"{name}.png")
    plain = Picture(2, (80, 60)).load()
    for mode, name in (
        ("P", "palette.png"),
        ("CMYK", "print.jpg"),
        ("LA", "grey.png"),
        ("1", "bits.png"),
        ("I;16", "deep.png"),
    ):
        (plain.convert("L") if mode == "I;16" else plain).convert(mode).save(folder / name)
    plain.save(folder / "moving.gif", save_all=True, append_images=[Picture(3, (80, 60)).load()])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "refused"),
    [
        (name, set())
        for name in ("llava", "llava_next", "llava_onevision", "internvl", "gemma3", "smolvlm", "minicpmv4_6")
    ]
    + [(name, {"strip.png", "post.png", "thread.png"}) for name in ("qwen3_vl", "glm4v", "lfm2_vl")],
)
def test_building_scoring_and_check_data_set_the_same_odd_files_aside(
    model_type: str, refused: set[str], odd_files: Path, tmp_path: Path
) -> None:
    policy = load_policy({"path": str(make_tiny_checkpoint(model_type, tmp_path, recipe=OWN[model_type]))}, None)
    names = sorted(path.name for path in odd_files.iterdir())
    images = [FileImage(str(odd_files), name) for name in names]
    built: dict[str, str] = {}
    asked = [GenerationRequest(n, i, "What?", ViewSpec(), Decoding(4)) for n, i in zip(names, images, strict=True)]
    answers = policy.generate(asked, set_aside=lambda asked, why: built.update({asked.sample_id: str(why)}))
    assert set(built) == refused and all(f"image '{name}' is refused by" in why for name, why in built.items())
    skipped = SkippedLog(None, max_share=0.9, total=len(names))
    good, other = Response("A cup."), Response("A dog.")
    pairs = [PreferencePair(n, "test", i, "What?", good, (other,)) for n, i in zip(names, images, strict=True)]
    kept = list(outcomes_of_pairs(pairs, selector=BestAgainstRest(), encoder=policy.encoder, skipped=skipped))
    assert len(kept) == len(names) - len(refused) and {item.item for item in skipped.items.values()} == refused
    found = inspect(
        [Sample(n, "test", i, (Turn("What?"),)) for n, i in zip(names, images, strict=True)],
        encoder=lambda: policy.encoder,
    )
    assert sum(found.refused.values()) == len(refused) and len(found.tokens) == len(kept), found.refused_why
    said = [
        (policy.encoder.encode_prompt(image.load(), "What?"), [policy.encoder.encode_response(answer)])
        for image, answer in zip(images, answers, strict=True)
        if answer is not None
    ]
    with torch.no_grad():
        assert bool(policy.score(policy.encoder.collate(said)).total.isfinite().all()), "odd sizes share a batch"
