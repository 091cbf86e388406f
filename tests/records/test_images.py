"""Real photographs in every form people have them, and files that must be refused with the reason."""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from parallax.records import BadImage
from parallax.records.images import FileImage
from tests.faults import Injected

FLOWER = Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real photograph, 160 x 107."""
    return Image.open(FLOWER).convert("RGB").resize((160, 107))


def close(one: Image.Image, other: Image.Image, within: float = 6.0) -> bool:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()) < within


def load(path: Path) -> Image.Image:
    image = FileImage(str(path.parent), path.name).load()
    assert image.mode == "RGB"
    return image


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.ppm", "wrong_extension.png"])
def test_photographs_load_in_every_format(tmp_path: Path, photo: Image.Image, name: str) -> None:
    form = "JPEG" if name.startswith("wrong") else None
    photo.save(tmp_path / name, format=form)
    assert close(load(tmp_path / name), photo)


def test_packaged_photographs_load_as_they_are() -> None:
    assert load(FLOWER).size == (640, 427)
    root = Path(skimage.data.__file__).parent
    for name in ("astronaut.png", "coffee.png", "rocket.jpg", "no_time_for_that_tiny.gif", "multipage.tif"):
        load(root / name)


def test_transparency_is_laid_on_white(tmp_path: Path, photo: Image.Image) -> None:
    clear = photo.copy()
    clear.putalpha(Image.new("L", photo.size, 0))
    clear.save(tmp_path / "rgba.png")
    photo.convert("L").convert("LA").save(tmp_path / "la.png")
    Image.merge("LA", (photo.convert("L"), Image.new("L", photo.size, 0))).save(tmp_path / "la_clear.png")
    palette = photo.quantize(16)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "palette_clear.png", transparency=bytes([0] * 16))
    red = Image.new("RGB", (4, 4), "red")
    red.save(tmp_path / "keyed.png", transparency=(255, 0, 0))
    white = Image.new("RGB", photo.size, "white")
    assert load(tmp_path / "rgba.png").tobytes() == white.tobytes()
    assert load(tmp_path / "la_clear.png").tobytes() == white.tobytes()
    assert load(tmp_path / "palette_clear.png").tobytes() == white.tobytes()
    assert load(tmp_path / "keyed.png").getpixel((0, 0)) == (255, 255, 255)
    assert close(load(tmp_path / "la.png"), photo.convert("L").convert("RGB"), 1)
    assert close(load(tmp_path / "palette.png"), photo, 25)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, photo: Image.Image) -> None:
    grey = np.asarray(photo.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tif")
    expected = photo.convert("L").convert("RGB")
    for name in ("deep.png", "deep.tif", "float.tif"):
        assert load(tmp_path / name).tobytes() == expected.tobytes(), name


def test_cmyk_greyscale_and_one_bit_become_rgb(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    photo.convert("L").save(tmp_path / "grey.jpg")
    photo.convert("1").save(tmp_path / "bit.png")
    assert close(load(tmp_path / "cmyk.jpg"), photo)
    assert close(load(tmp_path / "grey.jpg"), photo.convert("L").convert("RGB"))
    assert set(np.unique(load(tmp_path / "bit.png"))) == {0, 255}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotations_come_out_upright(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = photo.transpose(undo[orientation]) if orientation in undo else photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = load(tmp_path / "a.jpg")
    assert close(upright, photo) and not upright.getexif()


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert close(load(tmp_path / name), frames[0], 3), name


@pytest.mark.parametrize("size", [(1, 1), (2000, 3)])
def test_odd_sizes_load(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    assert load(tmp_path / "a.png").size == size


@pytest.mark.parametrize(
    "name", ["with space.png", "quote'\".png", "line\nbreak.png", "\u96ea\U0001f40c.png", "%41.png"]
)
def test_odd_names_load(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (3, 3), "red").save(tmp_path / name)
    assert load(tmp_path / name).size == (3, 3)


def refused(root: Path, path: str, reason: str, **options: int) -> None:
    image = FileImage(str(root), path, **options)
    with pytest.raises(BadImage, match=reason) as caught:
        image.load()
    assert repr(path)[1:-1] in str(caught.value)


def test_broken_files_are_refused_with_the_reason(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "good.jpg")
    photo.save(tmp_path / "good.png")
    for good in ("good.jpg", "good.png"):
        data = (tmp_path / good).read_bytes()
        (tmp_path / f"cut_{good}").write_bytes(data[: len(data) // 2])
        refused(tmp_path, f"cut_{good}", "corrupt or cut off")
    (tmp_path / "noise.jpg").write_bytes(os.urandom(2000))
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "folder.png").mkdir()
    for name in ("noise.jpg", "text.png", "program.png"):
        refused(tmp_path, name, "corrupt or of an unknown format")
    refused(tmp_path, "zero.png", "empty file")
    refused(tmp_path, "missing.png", "is missing")
    refused(tmp_path, "folder.png", "is missing")


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, injected: Injected) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    start = time.perf_counter()
    refused(tmp_path, "bomb.png", "too large|more than")
    assert time.perf_counter() - start < 1
    Image.new("RGB", (30, 30)).save(tmp_path / "small.png")
    refused(tmp_path, "small.png", "30 x 30 = 900 pixels, more than 899", max_pixels=899)
    injected("decompression bomb", told=2, says="refused within a second, before it is decoded")


def test_paths_stay_inside_their_root(tmp_path: Path, injected: Injected) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    Image.new("RGB", (3, 3)).save(outside / "secret.png")
    Image.new("RGB", (3, 3)).save(root / "fine.png")
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "linked").symlink_to(outside)
    (root / "inner.png").symlink_to(root / "fine.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    for path in (
        "../outside/secret.png",
        str(outside / "secret.png"),
        "link.png",
        "linked/secret.png",
        "a/../../outside/secret.png",
    ):
        refused(root, path, "leaves the image root")
    refused(root, "https://example.org/a.png", "is an address")
    refused(root, "a\x00.png", "no file name")
    refused(root, "loop.png", "cannot be looked up|is missing")
    refused(root, "x" * 5000 + ".png", "cannot be looked up")
    assert FileImage(str(root), "inner.png").load().size == (3, 3)
    assert FileImage(str(root), str(root / "fine.png")).load().size == (3, 3)
    injected("image path that leaves its root (`..`, absolute, links, addresses)", told=9, says="refused by name")


def test_the_digest_is_that_of_the_bytes_and_follows_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 3), "red").save(path)
    image = FileImage(str(tmp_path), "a.png")
    assert image.digest() == hashlib.sha256(path.read_bytes()).hexdigest() == image.digest()
    Image.new("RGB", (9, 9), "blue").save(path)
    assert image.digest() == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(BadImage, match="is missing"):
        FileImage(str(tmp_path), "b.png").digest()


@pytest.mark.parametrize(("kind", "bits", "side"), [(0, 16, 12_000), (6, 8, 9_500), (2, 8, 12_240)])
def test_an_image_that_takes_too_much_memory_is_refused_by_its_header(
    kind: int, bits: int, side: int, tmp_path: Path
) -> None:
    """A file of a few kilobytes can hold a picture of gigabytes, of fewer pixels than are allowed."""
    header = struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    (tmp_path / "big.png").write_bytes(data)
    with pytest.raises(BadImage, match="MiB to decode, more than 1,536; shrink it first"):
        FileImage(str(tmp_path), "big.png").load()


def test_greyscale_of_sixteen_bits_and_of_floats_is_brought_to_eight_a_few_rows_at_a_time(tmp_path: Path) -> None:
    values = np.arange(1000 * 3, dtype=np.float64).reshape(1000, 3)
    Image.fromarray((values * 21).astype(np.uint16)).save(tmp_path / "sixteen.png")
    Image.fromarray((values / 1500).astype(np.float32)).save(tmp_path / "float.tif")
    sixteen = np.asarray(FileImage(str(tmp_path), "sixteen.png").load())[..., 0]
    floats = np.asarray(FileImage(str(tmp_path), "float.tif").load())[..., 0]
    assert (sixteen == np.round(values * 21 / 257).astype(np.uint8)).all()
    assert np.abs(floats - values / 2999 * 255).max() <= 0.51
