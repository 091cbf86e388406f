"""A real run with keys in its environment and hostile ids in its data: no file holds a key, and none lies outside its folder."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from parallax.tasks.recipe import code_digest
from tests.faults import Injected
from tests.reliability.program import SMALL, run

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567", "OPENAI_API_KEY": "sk-very-secret-1", "HF_TOKEN": "hf_VerySecretToken2",
    "AWS_SECRET_ACCESS_KEY": "very/secret/3",
}  # fmt: skip
EVIL = (
    "../../../out",
    "/tmp/parallax-evil",
    "a/../../b",
    "..",
    "con\nnul",
    "x" * 300,
    "%2e%2e%2fout",
    "~/out",
    "<script>ran=1</script>",
)


def data_file(folder: Path) -> Path:
    """LLaVA's JSON with such ids, an image each."""
    rows = []
    for number, name in enumerate(EVIL):
        picture = Image.radial_gradient("L").resize((40 + number, 40)).convert("RGB")
        picture.save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is shown?"}, {"from": "gpt", "value": "A circle."}]
        rows.append({"id": name, "image": f"{number}.png", "conversations": turns})
    file = folder / "data.json"
    file.write_text(json.dumps(rows))
    return file


def the_manifest_tells_what_made_it(file: Path, data: Path) -> None:
    made_with = json.loads(file.read_text())["made_with"]
    assert made_with["code"] == code_digest() and made_with["python"] == platform.python_version()
    assert made_with["packages"]["torch"] == version("torch") and made_with["packages"]["peft"] == version("peft")
    assert hashlib.sha256((data / "data.json").read_bytes()).hexdigest() in made_with["data"].values()
    weights = ROOT / "assets" / "tiny_llava" / "model.safetensors"
    assert made_with["model"] == {"model/model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()}


def test_keys_stay_out_of_every_file_and_files_stay_in_their_folders(tmp_path: Path, injected: Injected) -> None:
    (data := tmp_path / "data").mkdir()
    words = (
        *SMALL, "method=seva", "data=llava_json", f"data.path={data_file(data)}", f"data.image_root={data}", "logger=wandb",
        "evaluation.when=[after]", "pairs.drop_equal=false",
    )  # fmt: skip
    known = {word for word in words if word not in ("logger=none", "data.size=14")}
    done = run(
        sorted(known), tmp_path / "work", environment={**KEYS, "WANDB_MODE": "offline", "HOME": str(tmp_path / "home")}
    )
    assert done.status == 0, done.screen
    files = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files) and any(path.name == "report.html" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [name for name, key in KEYS.items() if key.encode() in content], f"{path} holds a key"
    injected(
        "key in the environment of a run with W&B",
        told=len(KEYS),
        says="in no file of the run, of its logs, of W&B",
    )
    the_manifest_tells_what_made_it(
        next(path for path in files if path.name == "manifest.json" and "outputs" in path.parts), data
    )
    (report,) = [path for path in files if path.name == "pairs.json" and "stages" in path.parts]
    assert json.loads(report.read_text())["kept"] == len(EVIL)
    outside = {path.name for path in tmp_path.iterdir()} - {"data", "work", "home"}
    made = {path.name for path in (tmp_path / "work").iterdir() if not path.name.startswith("screen-")}
    assert not outside and made == {"cache", "outputs"} and not Path("/tmp/parallax-evil").exists()
    assert len(list(data.iterdir())) == len(EVIL) + 1
    injected(
        "id of a sample that is a path out, markup or too long for a name",
        used=len(EVIL),
        says="nothing is outside",
    )
