"""A configuration, wherever it comes from, has parts built and nothing else; Hydra's own part of it is on a list too."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from parallax.settings.build import build
from parallax.settings.command_line import compose_checked, prepare
from parallax.settings.errors import ConfigError
from parallax.settings.kinds import nodes, require_fitting
from parallax.settings.targets import UnknownTarget
from tests.faults import Injected

CONF = Path(__file__).resolve().parents[2] / "conf"
WRITES = "parallax.records.atomic.atomic_write_text"
WRITER = {"_target_": WRITES, "path": "", "text": "ran"}


def writer(marker: Path) -> dict[str, Any]:
    """A node whose building would leave a file behind."""
    return {"_target_": WRITES, "path": str(marker), "text": "ran"}


def places(marker: Path) -> dict[str, dict[str, Any]]:
    """Where a function that writes can be hidden in a node that looks like a part."""
    flip = {"_target_": "augment.geometric.RandomFlip"}
    return {
        "itself": writer(marker),
        "an argument": {**flip, "p": writer(marker)},
        "unnamed arguments": {**flip, "_args_": [writer(marker)]},
        "pathlib in unnamed arguments": {**flip, "_args_": [{"_target_": "pathlib.Path.write_text", "self": str(marker)}]},
        "a list": {"_target_": "augment.combine.Chain", "views": [flip, writer(marker)]},
        "a mapping in a list": {"_target_": "augment.combine.Chain", "views": [{"name": "identity", "x": {"y": writer(marker)}}]},
        "partial": {**writer(marker), "_partial_": True},
        "a function by name": {"_target_": "hydra.utils.get_method", "path": WRITES},
        "a source where a view is due": {"_target_": "datamodules.shapes.source.ShapesSource", "split": "tune_habitual"},
        "a nested partial": {**flip, "p": {**writer(marker), "_partial_": True}},
    }  # fmt: skip


@pytest.mark.parametrize("place", places(Path()))
def test_nothing_but_parts_of_the_right_kind_is_built(place: str, tmp_path: Path, injected: Injected) -> None:
    node = places(tmp_path / "ran")[place]
    with pytest.raises(UnknownTarget):
        build(node, "aug")
    assert not (tmp_path / "ran").exists()
    injected("attack: code hidden in a part of a configuration", told=1, says="refused; nothing was run")


def test_values_are_taken_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "told")
    source = build(
        {"_target_": "datamodules.formats.image_folder.ImageFolderSource", "path": str(CONF), "prompts": ["${oc.env:SECRET}"]},
        "data",
    )  # fmt: skip
    assert "told" not in repr(vars(source))


@pytest.mark.parametrize("key", ["aug", "data", "loss", "judge", "stages.align.proposer", "evaluation.judge"])
def test_the_check_refuses_other_code_of_ours_in_every_place(key: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    overrides = [f"{key}={{_target_:{WRITES},path:'{marker}',text:ran}}"]
    with pytest.raises(ConfigError, match="no part that a configuration may have built"):
        compose_checked([f"+{overrides[0]}" if "." in key else overrides[0]], CONF)
    assert not marker.exists()


def test_every_part_of_conf_is_of_the_kind_its_place_asks_for() -> None:
    checked = 0
    for file in CONF.rglob("*.yaml"):
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        group = file.relative_to(CONF).parts[0]
        if group != "hydra" and isinstance(content, dict):
            content.pop("hydra", None)
            for key, node, of in nodes(content, group if "_target_" in content else ""):
                require_fitting(node, key.removeprefix("."), of)
                checked += 1
    assert checked > 90


HYDRA = {
    "a callback": "callbacks: {end: {_target_: pathlib.Path.write_text}}",
    "a callback of ours that is none": f"callbacks: {{end: {{_target_: {WRITES}}}}}",
    "a launcher": "launcher: {_target_: parallax.records.atomic.atomic_write_text}",
    "a logging handler": "job_logging: {handlers: {x: {(): subprocess.call, args: [ls]}}}",
    "a logging class": "hydra_logging: {handlers: {x: {class: os.system}}}",
    "an environment that preloads": "job: {env_set: {LD_PRELOAD: /tmp/x.so}}",
    "a sweeper": "sweeper: {_target_: os.system}",
    "an environment that finds other programs": "job: {env_set: {PATH: /tmp/x}}",
    "an environment that sends keys elsewhere": "job: {env_set: {HF_ENDPOINT: 'http://evil'}}",
}


@pytest.mark.parametrize("what", HYDRA)
def test_hydras_own_part_of_an_experiment_names_no_other_code(what: str, tmp_path: Path, injected: Injected) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "planted.yaml").write_text(f"# @package _global_\nhydra:\n  {HYDRA[what]}\n")
    with pytest.raises(ConfigError, match="is not allowed"):
        prepare(["--config-dir", str(tmp_path), "experiment=planted"], CONF)
    injected(
        "attack: code named in Hydra's own part of an experiment file", told=1, says="refused before Hydra acts on it"
    )


def test_a_command_line_cannot_name_a_callback_either() -> None:
    with pytest.raises(ConfigError, match="hydra.callbacks"):
        prepare(["+hydra.callbacks.x={_target_: pathlib.Path.write_text}"], CONF)


def test_a_pickle_is_not_read() -> None:
    with pytest.raises(ConfigError, match="pickled"):
        prepare(["--experimental-rerun", "job.pickle"], CONF)


def test_a_tag_in_an_experiment_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "planted.yaml").write_text("x: !!python/object/apply:os.system [ls]\n")
    with pytest.raises(ConfigError, match="python/object/apply"):
        prepare(["--config-dir", str(tmp_path), "experiment=planted"], CONF)


def experiment(folder: Path, content: str) -> list[str]:
    """The words that choose an experiment of this content."""
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "planted.yaml").write_text(f"# @package _global_\n{content}")
    return ["--config-dir", str(folder), "experiment=planted"]


@pytest.mark.parametrize("key", ["judge.url", "data.prompts.0", "study.name", "paths.output_dir"])
def test_a_secret_of_the_environment_reaches_no_configuration(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, injected: Injected
) -> None:
    monkeypatch.setenv("HF_TOKEN", "told-to-nobody")
    names, content = key.split("."), "'x${oc.env:HF_TOKEN,none}'"
    for name in reversed(names):
        content = f"[{content}]" if name == "0" else f"{{{name}: {content}}}"
    with pytest.raises(ConfigError, match="the variable HF_TOKEN of the environment is a secret") as told:
        prepare(experiment(tmp_path, content), CONF)
    assert "told-to-nobody" not in str(told.value)
    injected("attack: a secret of the environment asked for by a configuration", told=1, says="refused, and not shown")


def test_interpolations_that_stand_for_more_than_memory_are_refused_at_once(tmp_path: Path, injected: Injected) -> None:
    doubled = "".join(f"  k{number}: '${{x.k{number + 1}}}${{x.k{number + 1}}}'\n" for number in range(40))
    with pytest.raises(ConfigError, match="stands for more than"):
        prepare(experiment(tmp_path, f"x:\n{doubled}  k40: abc\n"), CONF)
    long = "x:\n" + "".join(f"  k{n}: '{f'${{x.k{n + 1}}}' * 9}'\n" for n in range(3)) + f"  k3: {'a' * 5000}\n"
    with pytest.raises(ConfigError, match="stands for more than"):
        prepare(experiment(tmp_path, long), CONF)
    injected("attack: interpolations that name each other", told=2, says="refused at once")


def test_a_search_path_of_a_file_imports_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, injected: Injected
) -> None:
    (tmp_path / "evilpkg").mkdir()
    (tmp_path / "evilpkg" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(CONF, tmp_path / "conf")
    main = tmp_path / "conf" / "config.yaml"
    main.write_text(main.read_text() + "\nhydra:\n  searchpath: ['pkg://evilpkg']\n" if "\nhydra:" not in main.read_text()
                    else main.read_text().replace("\nhydra:", "\nhydra:\n  searchpath: ['pkg://evilpkg']", 1))  # fmt: skip
    with pytest.raises(ConfigError, match="hydra.searchpath=pkg://evilpkg of the configuration is not allowed"):
        prepare(["--config-path", str(tmp_path / "conf"), "seed=1"], CONF)
    assert not (tmp_path / "ran").exists()
    injected("attack: package named in a search path", told=1, says="refused; nothing was imported")
