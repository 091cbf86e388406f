"""Tar files whose headers lie about sizes: refused at once, in words."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from datamodules.formats.tables.tar_table import TarTable
from tests.faults import Injected


def member(name: str, data: bytes = b"", size: int | None = None, kind: bytes = b"0") -> bytes:
    """A header and its data, padded; `size` is what the header says."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    if size is not None:
        block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


LIES = {
    "a negative size": member("a.jpg", b"x" * 600, -512),
    "a very negative size": member("a.jpg", b"x", -(2**40)),
    "a negative size by a pax header": member("p", b"13 size=-512\n", kind=b"x") + member("a.jpg", b"x" * 600),
    "a pax header of negative size": member("p", b"13 size=-512\n", -512, b"x") + member("a.jpg", b"x"),
    "a pax header of gigabytes": member("p", b"", 1 << 33, b"x"),
    "a long name of negative size": member("././@LongLink", b"a.jpg", -512, b"L") + member("a.jpg", b"x"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_member_with_an_impossible_size_is_refused_at_once(lie: str, tmp_path: Path, injected: Injected) -> None:
    (tmp_path / "a.tar").write_bytes(member("0.txt", b"fine") + LIES[lie] + bytes(1024))
    with pytest.raises(ValueError, match="cannot be read as a tar file .a member has the size"):
        TarTable([tmp_path / "a.tar"])
    injected("attack: tar member of an impossible size", told=1, says="refused at once")


def test_honest_pax_headers_and_long_names_are_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("0.txt", f"{'long' * 40}/1.txt", "ü.txt"):
            info = tarfile.TarInfo(name)
            info.size = 4
            info.pax_headers = {"comment": "said"}
            archive.addfile(info, io.BytesIO(b"text"))
    assert len(TarTable([tmp_path / "a.tar"])) == 3
