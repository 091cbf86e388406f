"""What lies in the cache is used only as it was written, and only by whom it was written."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from parallax.records.reference_table import ReferenceTable
from parallax.records.shard_folder import KeyedStore
from tests.faults import Injected

KEY, PAIR = "0" * 32, "p" * 32


def kept(folder: Path) -> Path:
    path = KeyedStore(folder).add({KEY: "as it was"})
    assert path is not None and KeyedStore(folder).get_many([KEY]) == {KEY: "as it was"}
    return path


def test_a_shard_whose_content_was_changed_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, injected: Injected
) -> None:
    path = kept(tmp_path)
    parquet.write_table(pyarrow.table({"key": [KEY], "value": ['"planted"']}), path)
    assert KeyedStore(tmp_path).get_many([KEY]) == {} and "content was changed" in caplog.text
    injected("attack: shard of the cache changed under its key", told=1, says="not used; made again")


def test_a_shard_that_was_put_there_without_a_digest_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parquet.write_table(pyarrow.table({"key": [KEY], "value": ['"planted"']}), tmp_path / "planted.parquet")
    assert KeyedStore(tmp_path).get_many([KEY]) == {} and "no digest" in caplog.text


def test_a_shard_that_everybody_may_write_is_not_used_unless_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path).chmod(0o666)
    assert KeyedStore(tmp_path).get_many([KEY]) == {} and "everybody may write it" in caplog.text
    monkeypatch.setenv("PARALLAX_SHARED_CACHE", "1")
    assert KeyedStore(tmp_path).get_many([KEY]) == {KEY: "as it was"}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files here")
def test_a_shard_of_another_user_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept(tmp_path)
    if os.geteuid() == 0:
        os.chown(path, 4321, 4321)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert KeyedStore(tmp_path).get_many([KEY]) == {} and "belongs to another user" in caplog.text


def test_reference_log_probs_that_were_changed_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = ReferenceTable(tmp_path).add({PAIR: [1.0, 2.0]}, "weights")
    assert path is not None and ReferenceTable(tmp_path).get([PAIR], "weights") == {PAIR: [1.0, 2.0]}
    parquet.write_table(pyarrow.table({"pair_id": [PAIR], "log_probs": [[9.0, 9.0]]}), path)
    assert ReferenceTable(tmp_path).get([PAIR], "weights") == {} and "content was changed" in caplog.text


def test_image_features_that_were_changed_or_put_there_are_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, injected: Injected
) -> None:
    import torch

    from parallax.models.encoding.image_features import FeatureCache, ImageFeatures

    def features(value: float) -> ImageFeatures:
        return ImageFeatures({"pooler_output": [torch.full((2, 3), value)]}, {"pooler_output": "items"})

    FeatureCache(10**6, tmp_path / "features").put("abcd", features(1.0))
    assert "abcd" in FeatureCache(10**6, tmp_path / "features")
    FeatureCache(10**6, tmp_path / "others").put("abcd", features(2.0))
    (kept,), (planted,) = ((tmp_path / name / "ab").iterdir() for name in ("features", "others"))
    kept.write_bytes(planted.read_bytes())
    cache = FeatureCache(10**6, tmp_path / "features")
    assert "abcd" not in cache and cache.get("abcd") is None and cache.used == 0 and cache.put("abcd", features(1.0))
    assert caplog.text.count("content was changed after it was written") == 1
    planted.chmod(0o666)
    assert FeatureCache(10**6, tmp_path / "others").get("abcd") is None and "everybody may write it" in caplog.text
    injected("attack: image features of the cache changed under their key", told=2, says="not used; made again")
