"""Archives that somebody else made: what is safe comes out, what is not is told, and a bomb is refused before it fills
the disk."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.settings import Settings
from loopworks.data import archives
from loopworks.data.archives import safe_name, unpack

FILES = {"cat/1.jpg": b"one" * 100, "dog/2.jpg": os.urandom(3000), "notes.txt": b""}
MODES = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    mode: Any = MODES[path.name.partition(".")[2]]
    with tarfile.open(path, mode) as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        for info in more:
            out.addfile(info)
    return path


def packed(path: Path, files: dict[str, bytes]) -> Path:
    return zipped(path, files) if path.suffix == ".zip" else tarred(path, files)


def there(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (folder := tmp_path / "out").mkdir()
    return folder


every_kind = pytest.mark.parametrize("kind", ["zip", *MODES])


@every_kind
def test_files_come_out_as_they_went_in(kind: str, tmp_path: Path, out: Path) -> None:
    seen: list[tuple[int, int, int, int]] = []
    problems = unpack(packed(tmp_path / f"a.{kind}", FILES), out, Settings(), told=lambda *now: seen.append(now))
    assert (there(out), problems) == (FILES, [])
    assert seen[-1][0] == len(FILES)
    assert seen[-1][2] == sum(map(len, FILES.values()))


@every_kind
def test_what_is_there_already_is_not_written_again(kind: str, tmp_path: Path, out: Path) -> None:
    archive = packed(tmp_path / f"a.{kind}", FILES)
    unpack(archive, out, Settings())
    (out / "dog/2.jpg").write_bytes(FILES["dog/2.jpg"][:100])  # as a kill leaves it
    before = (out / "cat/1.jpg").stat().st_mtime_ns
    unpack(archive, out, Settings())
    assert there(out) == FILES
    assert (out / "cat/1.jpg").stat().st_mtime_ns == before


BAD_NAMES = [
    "../up.jpg",
    "/abs.jpg",
    "C:/drive.jpg",
    "a/../../up.jpg",
    "..\\up.jpg",
    "C:\\drive.jpg",
    "\\\\host\\x.jpg",
]


@every_kind
def test_names_that_lead_outside_are_left_out(kind: str, tmp_path: Path, out: Path) -> None:
    files = {name: b"bad" for name in BAD_NAMES} | {"good/1.jpg": b"good"}
    problems = unpack(packed(tmp_path / f"a.{kind}", files), out, Settings(), name="a")
    assert there(out) == {"good/1.jpg": b"good"}
    assert there(tmp_path).keys() == {f"a.{kind}", "out/good/1.jpg"}
    assert len(problems) == len(BAD_NAMES)
    assert "a/../up.jpg must be safe to unpack" in problems[0].message


@given(name=st.text(max_size=30))
def test_a_safe_name_never_leaves_its_folder(name: str) -> None:
    try:
        safe = safe_name(name)
    except Invalid:
        return
    root = "/some/folder"
    assert os.path.normpath(f"{root}/{safe}").startswith(f"{root}/")
    assert safe_name(safe) == safe


def test_links_devices_and_pipes_of_a_tar_are_left_out(tmp_path: Path, out: Path) -> None:
    odd = []
    for name, kind in {"s": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "f": tarfile.FIFOTYPE, "c": tarfile.CHRTYPE}.items():
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        odd.append(info)
    problems = unpack(tarred(tmp_path / "a.tar", FILES, *odd), out, Settings())
    assert there(out) == FILES
    assert len(problems) == 4
    assert all("must be a file; got a link, device or pipe" in one.message for one in problems)


def test_a_link_in_a_zip_is_left_out(tmp_path: Path, out: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = 0o120777 << 16
        made.writestr(info, "/etc/passwd")
        made.writestr("1.jpg", b"x")
    problems = unpack(tmp_path / "a.zip", out, Settings())
    assert there(out) == {"1.jpg": b"x"}
    assert ["a link or device" in one.message for one in problems] == [True]


@every_kind
def test_archives_inside_stay_closed(kind: str, tmp_path: Path, out: Path) -> None:
    problems = unpack(packed(tmp_path / f"a.{kind}", {"in/b.zip": b"PK", "c.7z": b"", "1.jpg": b"x"}), out, Settings())
    assert there(out) == {"1.jpg": b"x"}
    assert ["an archive inside the archive" in one.message for one in problems] == [True, True]


@every_kind
def test_the_same_name_twice_keeps_the_first(kind: str, tmp_path: Path, out: Path) -> None:
    files = {"a/1.jpg": b"first", "./a/1.jpg": b"second"}
    problems = unpack(packed(tmp_path / f"a.{kind}", files), out, Settings())
    assert there(out) == {"a/1.jpg": b"first"}
    assert len(problems) == 1


def test_a_file_in_the_place_of_a_folder_and_a_name_without_end_are_left_out(tmp_path: Path, out: Path) -> None:
    files = {"a": b"file", "a/1.jpg": b"x", f"{'n' * 300}.jpg": b"x", "2.jpg": b"y"}
    problems = unpack(zipped(tmp_path / "a.zip", files), out, Settings())
    assert there(out) == {"a": b"file", "2.jpg": b"y"}
    assert [one.message.count("a name that the disk takes") for one in problems] == [1, 1]


@every_kind
def test_a_bomb_is_refused_long_before_it_is_unpacked(
    kind: str, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "EARLY", 1_000_000)
    archive = packed(tmp_path / f"a.{kind}", {"1.jpg": b"x", "bomb.jpg": bytes(50_000_000)})
    if kind == "tar":
        assert unpack(archive, out, Settings()) == []  # as large packed as unpacked
        return
    with pytest.raises(Invalid, match="at most 250 times its size"):
        unpack(archive, out, Settings())
    assert sum(map(len, there(out).values())) < 5_000_000


@every_kind
def test_limits_of_size_and_number_hold(kind: str, tmp_path: Path, out: Path) -> None:
    archive = packed(tmp_path / f"a.{kind}", FILES)
    with pytest.raises(Invalid, match="at most 2 files"):
        unpack(archive, out, Settings(max_unpacked_files=2))
    with pytest.raises(Invalid, match="at most 1.0 kB unpacked"):
        unpack(archive, out, Settings(max_unpacked_bytes=1000))


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_declares(tmp_path: Path, out: Path) -> None:
    data = zipped(tmp_path / "a.zip", {"1.jpg": bytes(100_000), "2.jpg": b"x"}).read_bytes()
    small = data.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "b.zip").write_bytes(small)
    problems = unpack(tmp_path / "b.zip", out, Settings())
    assert there(out) == {"2.jpg": b"x"}
    assert len(problems) == 1


def test_encrypted_members_are_told_in_one_line(tmp_path: Path, out: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", {"1.jpg": b"x", "2.jpg": b"y", "3.jpg": b"z"}).read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        for _ in range(2):
            at = data.index(mark, at + 1)
            data[at + place] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    problems = unpack(tmp_path / "a.zip", out, Settings(), name="a.zip")
    assert there(out) == {"3.jpg": b"z"}
    assert [one.message for one in problems] == [
        "a.zip must be without a password; got 2 encrypted files such as 1.jpg"
    ]


def test_a_damaged_member_is_left_out_and_named(tmp_path: Path, out: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", {"1.jpg": b"abcdef" * 9, "2.jpg": b"y"}, 0).read_bytes())
    data[data.index(b"abcdef")] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    problems = unpack(tmp_path / "a.zip", out, Settings(), name="a.zip")
    assert there(out) == {"2.jpg": b"y"}
    assert problems[0].where == "a.zip/1.jpg"
    assert "CRC" in problems[0].message


MANY = {f"{n:02}.jpg": os.urandom(2000) for n in range(40)}


@every_kind
def test_of_an_archive_that_is_cut_off_the_whole_files_are_kept(kind: str, tmp_path: Path, out: Path) -> None:
    archive = packed(tmp_path / f"a.{kind}", MANY)
    os.truncate(archive, archive.stat().st_size // 2)
    if kind == "tar.bz2":  # one block of 900 kB: nothing of it can be unpacked
        with pytest.raises(Invalid):
            unpack(archive, out, Settings())
        return
    problems = unpack(archive, out, Settings(), name="a")
    found = there(out)
    assert 5 < len(found) < 40
    assert all(MANY[name] == data for name, data in found.items())
    assert [one.where for one in problems] == ["a"]
    assert "whole" in problems[0].message


def test_a_cut_zip_that_was_streamed_is_salvaged_too(tmp_path: Path, out: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in MANY.items():
            made.writestr(name, data)
    data = pipe.getvalue()
    (tmp_path / "a.zip").write_bytes(data[: len(data) // 2])
    problems = unpack(tmp_path / "a.zip", out, Settings())
    found = there(out)
    assert len(found) > 15
    assert all(MANY[name] == data for name, data in found.items())
    assert len(problems) == 1


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize(
    "content", [b"", b"no archive at all" * 100, b"PK\x05\x06", b"\x1f\x8bxx", b"\xfd7zXZ\x00rest"]
)
def test_what_is_no_archive_is_refused(kind: str, content: bytes, tmp_path: Path, out: Path) -> None:
    (tmp_path / f"a.{kind}").write_bytes(content)
    with pytest.raises(Invalid, match=r"must be a (zip|tar) file"):
        unpack(tmp_path / f"a.{kind}", out, Settings())
    assert there(out) == {}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_never_crashes_and_gives_no_wrong_bytes_untold(
    kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    content = bytearray(packed(folder / f"a.{kind}", FILES).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    (folder / f"a.{kind}").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    (folder / "out").mkdir()
    try:
        problems = unpack(folder / f"a.{kind}", folder / "out", Settings())
    except LoopworksError:
        return
    is_right = all(FILES.get(name, content) == content for name, content in there(folder / "out").items())
    # A zip has a checksum of each file, a packed tar one of all of them (found at its end), a plain tar none.
    assert is_right or kind == "tar" or (kind != "zip" and problems)


def test_names_in_utf_8_are_read_where_the_bit_for_it_is_not_set(tmp_path: Path, out: Path) -> None:
    data = zipped(tmp_path / "a.zip", {"caf\u00e9.jpg": b"x"}).read_bytes()
    data = data.replace(b"\x14\x00\x00\x08", b"\x14\x00\x00\x00")
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() != ["caf\u00e9.jpg"]
    (tmp_path / "a.zip").write_bytes(data)
    assert unpack(tmp_path / "a.zip", out, Settings()) == []
    assert there(out) == {"caf\u00e9.jpg": b"x"}


def test_several_xz_streams_in_a_row_are_one_tar(tmp_path: Path, out: Path) -> None:
    import lzma

    plain = tarred(tmp_path / "a.tar", FILES).read_bytes()
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(plain[:700]) + lzma.compress(plain[700:]) + bytes(8))
    assert unpack(tmp_path / "a.tar.xz", out, Settings()) == []
    assert there(out) == FILES


@pytest.mark.parametrize(("name", "is_one"), [("a.ZIP", True), ("b.tar.gz", True), ("c.tgz", True), ("d.gz", False)])
def test_archives_are_known_by_their_names(name: str, is_one: bool) -> None:
    assert archives.is_archive(name) is is_one
    assert archives.is_packed(name)


def test_a_stop_while_unpacking_is_passed_on(tmp_path: Path, out: Path) -> None:
    from loopworks.core.errors import Cancelled

    def stop(*_: int) -> None:
        raise Cancelled

    told: Callable[..., None] = stop
    with pytest.raises(Cancelled):
        unpack(zipped(tmp_path / "a.zip", FILES), out, Settings(), told=told)
    assert len(there(out)) == 1
