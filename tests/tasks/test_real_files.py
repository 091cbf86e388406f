"""The main job on files as users have them: LLaVA's JSON with photographs, a folder of images, ready-made pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from PIL import Image

from parallax.settings.check import check
from parallax.tasks import run_task

QUICK = (
    "trainer.batch_size=4", "trainer.micro_batch_size=2", "trainer.max_epochs=1", "evaluation=none", "trainer=cpu",
    "logger=none", "generation.max_new_tokens=24", "pairs.max_skipped_share=0.9",
)  # fmt: skip


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Public-domain photographs that come with scikit-image and scikit-learn, in the forms files come in."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    root = tmp_path / "photos"
    (root / "ocr_vqa").mkdir(parents=True)
    china, flower = (Image.fromarray(picture) for picture in load_sample_images().images)
    astronaut = Image.fromarray(data.astronaut())
    china.save(root / "ocr_vqa" / "china.jpg")
    flower.save(root / "flower with spaces.webp")
    astronaut.convert("RGBA").save(root / "astronaut.png")
    astronaut.convert("L").save(root / "grey.png")
    astronaut.convert("CMYK").save(root / "cmyk.jpg")
    astronaut.quantize(16).save(root / "palette.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    astronaut.save(root / "turned.jpg", exif=turned)
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return root


@pytest.fixture
def start(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def start(*overrides: str) -> dict[str, Any]:
        folder = tmp_path / "run"
        cfg = compose_config(*QUICK, *overrides, f"paths.output_dir={folder}", f"paths.cache_dir={tmp_path / 'cache'}")
        check(cfg)
        run_task(cfg)
        content: dict[str, Any] = json.loads((folder / "results.json").read_text())
        return {**content, "folder": folder}

    return start


def test_llava_json_with_photographs(start: Callable[..., Any], photographs: Path, tmp_path: Path) -> None:
    names = sorted(str(path.relative_to(photographs)) for path in photographs.rglob("*.*"))
    entries = [
        {
            "id": str(number),
            "image": name,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is in the picture?"},
                {"from": "gpt", "value": "A thing."},
            ],
        }
        for number, name in enumerate([*names, "missing.jpg", "../outside.jpg"])
    ]
    file = tmp_path / "mix.json"
    file.write_text(json.dumps(entries))
    results = start("data=llava_json", f"data.path={file}", f"data.image_root={photographs}", "aug.noise_steps=900")
    pairs, skipped = results["pairs"], (results["folder"] / "skipped.jsonl").read_text().splitlines()
    told = {json.loads(line)["why"] for line in skipped}
    assert len(skipped) == 3 and any("broken.jpg" in why for why in told) and any("outside" in why for why in told)
    assert pairs["kept"] + sum(pairs["dropped"].values()) == len(entries)
    assert (results["folder"] / "stages/align/adapter/adapter_model.safetensors").is_file()
    assert "data:image" in (results["folder"] / "report.html").read_text()


def test_a_folder_of_unlabelled_images(start: Callable[..., Any], photographs: Path) -> None:
    results = start("data=image_folder", f"data.path={photographs}", "aug=moco_seva", "pairs.drop_equal=false")
    assert results["pairs"]["kept"] == 7 and results["pairs"]["built"] == 14


def test_ready_made_pairs(start: Callable[..., Any], photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.json"
    rows = [
        {"image_id": "ocr_vqa/china.jpg", "question": f"Question {i}?", "chosen": f"Good {i}.", "reject": f"Bad {i}."}
        for i in range(6)
    ]
    file.write_text(json.dumps(rows))
    results = start("method=dpo_file", f"data.path={file}", f"data.image_root={photographs}")
    assert results["pairs"]["kept"] == 6 and results["pairs"]["built"] == 0


def test_supervised_tuning_on_llava_json(start: Callable[..., Any], photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "sft.json"
    entry = {
        "id": "a",
        "image": "astronaut.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWho is this?"},
            {"from": "gpt", "value": "An astronaut."},
            {"from": "human", "value": "Is she smiling?"},
            {"from": "gpt", "value": "Yes."},
        ],
    }
    file.write_text(json.dumps([{**entry, "id": str(i)} for i in range(4)]))
    results = start(
        "data=llava_json", f"data.path={file}", f"data.image_root={photographs}", "++stages.align.fit=supervised",
        "stages.align.proposer=null",
    )  # fmt: skip
    assert results["steps"] == 1 and (results["folder"] / "stages/align/adapter").is_dir()


def llava_file(photographs: Path, tmp_path: Path) -> list[str]:
    """Four questions with answers about photographs, as LLaVA's JSON; the words that choose it."""
    entries = [
        {"id": str(number), "image": name, "conversations": [
            {"from": "human", "value": "<image>\nWhat is in the picture?"}, {"from": "gpt", "value": f"Thing {number}."}]}
        for number, name in enumerate(["ocr_vqa/china.jpg", "flower with spaces.webp", "grey.png", "palette.png"])
    ]  # fmt: skip
    file = tmp_path / "mix.json"
    file.write_text(json.dumps(entries))
    return ["data=llava_json", f"data.path={file}", f"data.image_root={photographs}", "pairs.drop_equal=false"]


TREE = ("num_groups=2", "keep_bottom=1", "prune_from=2", "max_sentence_tokens=6", "max_path_tokens=12")
MORE = {
    "sima": [
        "judge.order=random",
        "stages.align.proposer.temperature=2",
    ],  # the model at hand judges photographs at random
    "seva": ["aug.noise_steps=900"],
    "seva_multi": ["aug=several", "pairs.num_negatives=2"],
    "csr": [f"stages.align.proposer.{word}" for word in TREE],
    "self_rewarding": [f"stages.align.proposer.{word}" for word in TREE],
}


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("seva", 1), ("seva_multi", 1), ("stic", 2), ("sima", 1), ("csr", 1), ("self_rewarding", 1), ("positive_only", 2),
        ("gt_dpo", 1), ("spin", 3), ("continual_sft", 1), ("povid", 2),
    ],
)  # fmt: skip
def test_methods_on_llava_json_with_photographs(
    start: Callable[..., Any], photographs: Path, tmp_path: Path, method: str, steps: int
) -> None:
    words = [f"method={method}", *llava_file(photographs, tmp_path), *MORE.get(method, [])]
    if method == "povid":
        rewritten = tmp_path / "rewritten.json"
        rewritten.write_text(json.dumps({str(number): f"Thing {number} and a dog." for number in range(4)}))
        words.append(f"stages.align.proposer.rewrite.path={rewritten}")
    results = start(*words, "generation.max_new_tokens=12")
    assert results["steps"] == steps
    assert (results["folder"] / "report.html").is_file()
    assert (Path(results["adapter"]) / "adapter_model.safetensors").is_file()
