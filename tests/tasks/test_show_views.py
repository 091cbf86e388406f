"""The contact sheet of views: everything is on it, it is reproducible, and noise looks as the model sees it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from augment import Chain, Mixture, build, view_names
from parallax.records import BadImage
from parallax.reports.model_eye import ModelEye
from parallax.tasks.show_views import label_of, run, view_pictures

ROOT = Path(__file__).parents[2]


def config(folder: Path, **task: object) -> DictConfig:
    return OmegaConf.create(
        {
            "seed": 0,
            "task": {**OmegaConf.load(ROOT / "conf/task/show_views.yaml"), "side": 64, **task},
            "model": {"name": "tiny_llava", "path": str(ROOT / "assets" / "tiny_llava")},
            "aug": OmegaConf.load(ROOT / "conf/aug/diffusion.yaml"),
            "paths": {"output_dir": str(folder)},
            "data": {"_target_": "datamodules.shapes.source.ShapesSource", "split": "pairs_habit_free", "size": 5},
        }
    )


def test_the_sheet_shows_every_view_of_a_scene_and_is_the_same_again(tmp_path: Path) -> None:
    first = run(config(tmp_path / "a"))
    again = run(config(tmp_path / "b"))
    assert Path(first["sheet"]) == tmp_path / "a" / "views.png"
    assert Path(first["sheet"]).read_bytes() == Path(again["sheet"]).read_bytes()
    shown = " ".join(first["views"])
    assert all(name in shown for name in view_names())
    assert all(f"noise_steps={step}" in shown for step in (100, 300, 500, 700, 900))
    with Image.open(first["sheet"]) as sheet:
        assert sheet.format == "PNG" and sheet.width == 6 * (64 + 12) + 12 and sheet.height > sheet.width


def test_a_photograph_from_a_file_is_shown(tmp_path: Path) -> None:
    photograph = tmp_path / "in" / "photo.jpg"
    photograph.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8), "RGB").save(photograph)
    output = tmp_path / "out" / "sheet.png"
    run(config(tmp_path, image=str(photograph), output=str(output), noise_steps=[500], columns=3))
    with Image.open(output) as sheet:
        assert sheet.width == 3 * (64 + 12) + 12


def test_a_missing_file_and_an_index_past_the_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"nothing\.png"):
        run(config(tmp_path, image=str(tmp_path / "nothing.png")))
    with pytest.raises(ValueError, match="task.index=5 is not among the 5 images"):
        run(config(tmp_path, index=5))


def test_views_that_act_sometimes_are_shown_acting() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(40, 200, (48, 48, 3), np.uint8), "RGB")
    pictures = view_pictures(image, ModelEye(side=48), [500], build("identity"), seed=0)
    shown = {picture.label.split()[0]: picture.image for group in pictures.values() for picture in group}
    for name in ("random_flip", "invert", "posterize", "solarize", "equalize", "autocontrast", "sharpness"):
        assert shown[name].tobytes() != image.tobytes(), name


def test_the_configured_view_stands_beside_the_clean_image() -> None:
    image = Image.new("RGB", (32, 32), (90, 120, 150))
    configured = Mixture(["pad", {"name": "diffusion", "noise_steps": 123}])
    first = next(iter(view_pictures(image, ModelEye(side=32), [], configured, seed=0).values()))
    assert first[0].label == "identity"
    assert {picture.label for picture in first[1:]} == {"mixture: pad padding=50", "mixture: diffusion noise_steps=123"}


def test_labels_name_the_view_and_its_arguments() -> None:
    assert label_of(build("low_resolution")) == "low_resolution side=20"
    assert label_of(build("moco_v2")) == "moco_v2"
    assert label_of(Chain(["identity", "diffusion"])) == "chain identity + diffusion noise_steps=500"
    assert label_of(build("random_resized_crop")).startswith("random_resized_crop size=224 scale=0.36-0.64")


def test_noise_looks_stronger_to_a_processor_with_a_larger_standard_deviation() -> None:
    """Step 300 has noise of standard deviation 0.1941 in normalised units: 0.1941 * std * 255 in pixel values."""
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    for std in (0.1, 0.27):
        eye = ModelEye(mean=(0.5,) * 3, std=(std,) * 3, side=128)
        seen = np.asarray(eye.sees(grey, build({"name": "diffusion", "noise_steps": 300}), 0), dtype=float)
        assert seen.std() == pytest.approx(0.1941 * std * 255, rel=0.03)
        assert seen.mean() == pytest.approx(128, abs=0.5)


def test_the_eye_is_read_from_the_models_processor(tmp_path: Path) -> None:
    from tests.toys.tiny_checkpoints import make_tiny_checkpoint

    eye = ModelEye.of(make_tiny_checkpoint("llava", tmp_path))
    assert eye == replace(ModelEye(), side=56)
    assert ModelEye.of(make_tiny_checkpoint("qwen2_5_vl", tmp_path / "qwen")).side == ModelEye().side  # any size
    assert ModelEye.of("llava-hf/llava-1.5-7b-hf") == ModelEye()  # not on this disk: CLIP at 336 pixels
    built_in = ModelEye.of(ROOT / "assets" / "tiny_llava")
    assert built_in.side == 96 and built_in.std == (0.5, 0.5, 0.5)
