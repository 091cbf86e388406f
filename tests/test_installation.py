"""The program as it is installed: a wheel with all it needs, the command `parallax`, a sentence where something is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from parallax import __version__
from parallax.settings.extras import install, missing
from parallax.settings.places import CONF, locate, user_cache

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_an_extra_is_told_as_the_packages_it_consists_of() -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        assert install(extra) == "pip install " + " ".join(f"'{requirement}'" for requirement in requirements)
    named = {
        line.split("'.[", 1)[1].split("]", 1)[0]
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
        for line in page.read_text("utf-8").splitlines()
        if "pip install -e '.[" in line
    }
    assert named and named <= set(PROJECT["optional-dependencies"])


def test_an_environment_without_our_packages_is_one_sentence(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / "bin" / "python"
    done = subprocess.run([python, ROOT / "run.py", "method=seva"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and not done.stdout
    assert "has no package" in done.stderr and ".venv" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_missing_module_of_ours_is_a_mistake_of_ours() -> None:
    assert missing(ModuleNotFoundError("no", name="parallax.nowhere")) is None
    assert "no package torch" in str(missing(ModuleNotFoundError("no", name="torch.nn")))


def test_files_that_travel_are_found_where_none_of_that_name_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("sweeps/beta.yaml") == CONF.parent / "sweeps" / "beta.yaml"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "beta.yaml").touch()
    assert locate("sweeps/beta.yaml").resolve() == tmp_path / "sweeps" / "beta.yaml"
    assert locate("nowhere.yaml") == Path("nowhere.yaml")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "parallax"


def test_the_citation_names_the_papers_and_this_version() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert {paper["url"] for paper in citation["references"]} == set(PROJECT["urls"].values())
    assert all(paper["authors"] and paper["title"] for paper in citation["references"])


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_runs_from_any_folder(tmp_path: Path) -> None:
    """Built, installed beside nothing of this clone (the libraries are lent by the present environment), and run elsewhere."""
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    if not Path(uv).exists():
        pytest.skip("needs uv to build the wheel")
    built = subprocess.run([uv, "build", "--wheel", "-o", tmp_path / "dist", ROOT], capture_output=True, text=True)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip(f"no index to take the build backend from: {built.stderr[-300:]}")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in ("conf/config.yaml", "assets/tiny_llava/config.json", "sweeps/beta.yaml"):
        assert f"parallax/shipped/{path}" in names
    assert not any(name.startswith(("tests/", "conf/", "shared/")) for name in names)

    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([uv, "pip", "install", "-q", "--no-deps", "--python", python, wheel], check=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    lent = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PARALLAX", "PYTHONPATH"))}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def parallax(*words: str) -> str:
        done = subprocess.run(
            [tmp_path / "env" / "bin" / "parallax", *words],
            cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert parallax("--version").startswith(f"parallax {__version__} ")
    shown = parallax("--cfg", "job", "--resolve", "-p", "model")
    assert str(site / "parallax" / "shipped" / "assets" / "tiny_llava") in shown and str(ROOT) not in shown
    small = [
        "data.size=12",
        "debug.max_steps=1",
        "evaluation.scenes=4",
        "evaluation.bootstrap=0",
        "trainer=cpu",
        "logger=none",
    ]
    parallax("method=seva", *small)
    (results,) = elsewhere.glob("outputs/*/*/results.json")
    assert json.loads(results.read_text())["steps"] == 1
    assert list((tmp_path / "cache" / "parallax").rglob("*.safetensors")) or list(
        (tmp_path / "cache" / "parallax").iterdir()
    )
