"""`task=compare`: the command from end to end."""

from pathlib import Path

import pytest

from parallax.settings.errors import ConfigError
from parallax.tasks import compare, run_task
from tests.reports.run_folders import write_run


def test_it_writes_beside_the_runs_or_where_it_is_told(compose_config, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    for number in range(2):
        write_run(tmp_path / "many" / str(number), {"seed": number}, number, typed=(f"seed={number}",))
    words = ("task=compare", f"runs={tmp_path / 'many'}", f"paths.output_dir={tmp_path / 'run'}")
    compare.run(compose_config(*words))
    assert (tmp_path / "many" / "compare.html").is_file() and (tmp_path / "many" / "compare.csv").is_file()
    assert f"comparison in {tmp_path / 'many' / 'compare.html'}" in capsys.readouterr().out
    compare.run(compose_config(*words, f"task.output={tmp_path / 'there'}"))
    assert (tmp_path / "there" / "compare.html").is_file()


def test_a_folder_without_runs_is_refused_in_words(compose_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="holds no run"):
        compare.run(compose_config("task=compare", f"runs=[{tmp_path}]", f"paths.output_dir={tmp_path / 'run'}"))


def test_a_helper_leaves_no_folder_of_its_own(compose_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_run(tmp_path / "many" / "0", {}, 1)
    run_task(
        compose_config("task=compare", f"runs={tmp_path / 'many'}", f"paths.output_dir={tmp_path / 'day' / 'own'}")
    )
    assert (tmp_path / "many" / "compare.html").is_file() and not (tmp_path / "day").exists()
    with pytest.raises(ConfigError):
        run_task(compose_config("task=gallery", "run=nothere", f"paths.output_dir={tmp_path / 'day' / 'own'}"))
    assert not (tmp_path / "day").exists()
