"""Which device a process works on; GPUs are pretended, nothing here needs one."""

from pathlib import Path

import pytest
import torch

from parallax.models import devices
from parallax.models.devices import accelerator_for, image_workers, pick_device
from parallax.models.loading import precision_for


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with eight GPUs; what is told torch of the current one."""
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: False)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    return told


@pytest.mark.parametrize(("name", "rank"), [("LOCAL_RANK", 3), ("SLURM_LOCALID", 5), (None, 0)])
def test_each_process_reads_its_weights_onto_its_own_gpu(
    eight_gpus: list[str], monkeypatch: pytest.MonkeyPatch, name: str | None, rank: int
) -> None:
    if name is not None:
        monkeypatch.setenv(name, str(rank))
    assert pick_device("auto") == pick_device("gpu") == f"cuda:{rank}"
    assert set(eight_gpus) == {f"cuda:{rank}"}
    assert pick_device("cpu") == "cpu"


def test_cudnns_attention_is_off_on_a_gpu(
    eight_gpus: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    switched: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    caplog.set_level("INFO")
    pick_device("gpu")
    assert switched == [False]
    assert "plans for each shape" in caplog.text


@pytest.mark.parametrize("name", ["auto", "gpu"])
def test_a_gpu_that_torch_cannot_use_is_named_with_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.60.13  Wed Nov 30\n")
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    monkeypatch.setattr(devices, "DRIVER", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(RuntimeError, match=r"CUDA 13\.2.*driver is 525\.60\.13.*trainer=cpu"):
        accelerator_for(name)
    assert accelerator_for("cpu") == "cpu"
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match="without CUDA"):
        accelerator_for(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    if name == "auto":
        assert accelerator_for(name) == "cpu"
    else:
        with pytest.raises(RuntimeError, match="sees no GPU"):
            accelerator_for(name)


def test_older_gpus_that_only_imitate_bfloat16_get_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert precision_for("auto", "cuda:0") == torch.float16


def test_workers_prepare_images_where_a_gpu_waits(eight_gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(128)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert image_workers("auto") == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # what eight processes leave each other
    assert image_workers("auto") == 4
    assert image_workers(3) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert image_workers("auto") == 0
