"""Blob stores: the contract on a folder and on S3, and what only one of them can do."""

import errno
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, Denied, Invalid, Missing, NoSpace, NotFound, Unreachable
from loopworks.store.blobs import BlobStore, LocalBlobs, open_blobs
from loopworks.store.objects import ObjectBlobs


def key_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestBothStores:
    def test_they_satisfy_the_contract(self, blobs: BlobStore) -> None:
        assert isinstance(blobs, Blobs)

    @given(data=st.binary(max_size=3000))
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_bytes_come_back_under_their_hash(self, blobs: BlobStore, data: bytes) -> None:
        assert blobs.put_bytes(data) == key_of(data)
        assert blobs.read(key_of(data)) == data
        assert blobs.size(key_of(data)) == len(data)

    def test_a_stream_larger_than_a_chunk_is_stored_whole(self, blobs: BlobStore) -> None:
        data = os.urandom(1 << 20) * 3 + b"end"
        assert blobs.put(io.BytesIO(data)) == key_of(data)
        with blobs.open(key_of(data)) as file:
            assert file.read() == data

    def test_putting_twice_keeps_one(self, blobs: BlobStore) -> None:
        assert blobs.put_bytes(b"same") == blobs.put(io.BytesIO(b"same"))
        assert list(blobs.keys()) == [key_of(b"same")]

    def test_what_is_not_there_is_said_so(self, blobs: BlobStore) -> None:
        key = key_of(b"nowhere")
        assert not blobs.has(key)
        for ask in (blobs.read, blobs.open, blobs.size, blobs.verify):
            with pytest.raises(NotFound, match=key):
                ask(key)

    def test_an_empty_store_has_no_keys(self, blobs: BlobStore) -> None:
        assert list(blobs.keys()) == []

    @pytest.mark.parametrize("key", ["", "../../etc/passwd", "g" * 64, "A" * 64, "a" * 63])
    def test_what_is_no_key_never_becomes_a_path(self, blobs: BlobStore, key: str) -> None:
        for ask in (blobs.read, blobs.has, blobs.delete):
            with pytest.raises(Invalid, match="blob key must be 64 hex digits"):
                ask(key)

    def test_deleting_twice_is_harmless(self, blobs: BlobStore) -> None:
        key = blobs.put_bytes(b"gone")
        blobs.delete(key)
        blobs.delete(key)
        assert not blobs.has(key)

    def test_a_writer_shows_nothing_before_it_finishes_and_all_after(self, blobs: BlobStore) -> None:
        data = [f"blob {i % 40}".encode() for i in range(60)]
        with blobs.writer() as writer, ThreadPoolExecutor(4) as pool:
            keys = list(pool.map(writer.add, data))
        assert keys == [key_of(one) for one in data]
        assert sorted(blobs.keys()) == sorted(set(keys))
        for one in data:
            assert blobs.read(key_of(one)) == one

    def test_a_writer_that_fails_lets_go_of_everything(self, blobs: BlobStore) -> None:
        def fail() -> None:
            with blobs.writer() as writer:
                writer.add(b"half")
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            fail()
        blobs.put_bytes(b"whole")
        assert key_of(b"whole") in set(blobs.keys())

    def test_verify_passes_what_is_whole(self, blobs: BlobStore) -> None:
        blobs.verify(blobs.put_bytes(b"whole"))


@pytest.fixture
def local(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_verify_finds_a_changed_file(local: LocalBlobs) -> None:
    key = local.put_bytes(b"good")
    path = local.path(key)
    path.chmod(0o600)
    path.write_bytes(b"evil")
    with pytest.raises(Damaged, match=f"blob {key} must have that SHA-256; got {key_of(b'evil')}"):
        local.verify(key)


def test_blobs_are_read_only_files(local: LocalBlobs) -> None:
    for key in (local.put_bytes(b"one"), local.put(io.BytesIO(b"two"))):
        assert local.path(key).stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_nothing_half_written(
    local: LocalBlobs, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(handle: int, data: memoryview) -> int:
        raise OSError(number, "full")

    monkeypatch.setattr("loopworks.store.blobs.os.write", full)
    with pytest.raises(NoSpace, match="must have room for more; got a full disk"):
        local.put_bytes(b"too much")
    assert files_in(local.folder) == []


def test_a_disk_that_fills_while_syncing_keeps_nothing(local: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    local.put_bytes(b"before")
    monkeypatch.setattr("loopworks.store.blobs.os.fsync", full)
    for put in (local.put_bytes, lambda data: local.put(io.BytesIO(data))):
        with pytest.raises(NoSpace):
            put(b"too much")
    assert list(local.keys()) == [key_of(b"before")]
    assert len(files_in(local.folder)) == 1


def test_short_writes_are_continued(local: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("loopworks.store.blobs.os.write", lambda handle, data: write(handle, data[:3]))
    key = local.put_bytes(b"a long blob")
    assert local.read(key) == b"a long blob"


def test_a_folder_that_may_not_be_written_is_said_so(local: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("loopworks.store.blobs.os.makedirs", refuse)
    with pytest.raises(Denied, match="must be writable; got: Permission denied"):
        local.put_bytes(b"x")


def test_a_blob_is_synced_before_it_gets_its_name(local: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put_bytes(b"make the folders")
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def move(source: str, target: str) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr("loopworks.store.blobs.os.fsync", sync)
    monkeypatch.setattr("loopworks.store.blobs.os.replace", move)
    local.put_bytes(b"safe")
    assert [step for step in steps if step != "folder"] == ["file", "rename"]
    assert steps[-1] == "folder"


def test_a_link_shares_the_bytes_of_the_file(local: LocalBlobs, tmp_path: Path) -> None:
    (source := tmp_path / "photo.jpg").write_bytes(b"photo")
    assert local.link(source, key_of(b"photo"))
    assert local.path(key_of(b"photo")).samefile(source)
    assert local.link(source, key_of(b"photo"))


def test_sweep_removes_only_old_litter(local: LocalBlobs) -> None:
    key = local.put_bytes(b"kept")
    (old := local.folder / "tmp" / "1-old").write_bytes(b"half")
    (new := local.folder / "tmp" / "1-new").write_bytes(b"half")
    os.utime(old, (0, 0))
    assert local.sweep() == 1
    assert new.exists()
    assert local.has(key)


def test_the_folder_is_used_where_no_url_is_given(tmp_path: Path) -> None:
    assert isinstance(open_blobs("", tmp_path), LocalBlobs)


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="blobs URL must be s3://bucket/prefix"):
        open_blobs("ftp://host/x", tmp_path)


def test_without_obstore_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(Missing) as caught:
        open_blobs("s3://bucket/x", tmp_path)
    assert caught.value.hint == "pip install 'loopworks[s3]'"


def test_a_missing_bucket_is_said_so(bucket: str, s3_options: dict[str, str | bool]) -> None:
    store = ObjectBlobs("s3://other", options=s3_options, client_options={"allow_http": True})
    with pytest.raises(NotFound, match="bucket 's3://other' does not exist"):
        store.put_bytes(b"x")


def test_an_object_store_that_does_not_answer_is_unreachable(s3_options: dict[str, str | bool]) -> None:
    options = s3_options | {"endpoint": "http://127.0.0.1:9"}
    client = {"allow_http": True, "connect_timeout": "1s"}
    retry = {"max_retries": 0}
    store = ObjectBlobs("s3://blobs", options=options, client_options=client, retry=retry)
    with pytest.raises(Unreachable, match=r"s3://blobs must answer"):
        store.has(key_of(b"x"))


def test_two_prefixes_of_a_bucket_are_two_stores(bucket: str, s3_options: dict[str, str | bool]) -> None:
    one, two = (
        ObjectBlobs(f"s3://{bucket}/{name}", options=s3_options, client_options={"allow_http": True})
        for name in ("one", "two")
    )
    key = one.put_bytes(b"mine")
    assert one.has(key)
    assert not two.has(key)


def test_a_file_is_shared_where_the_disk_can_and_then_edits_do_no_harm(
    local: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def clone(target: int, request: int, source: int) -> int:
        asked.append(request)
        os.write(target, os.pread(source, 100, 0))  # what the file system does without copying
        return 0

    monkeypatch.setattr("loopworks.store.blobs.fcntl.ioctl", clone)
    (file := tmp_path / "a.jpg").write_bytes(b"mine")
    assert local.link(file, key_of(b"mine"))
    file.write_bytes(b"edit")
    assert asked == [0x40049409]
    assert local.read(key_of(b"mine")) == b"mine"
    assert files_in(local.folder / "tmp") == []


def test_a_file_is_hard_linked_where_bytes_cannot_be_shared(
    local: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("loopworks.store.blobs.fcntl.ioctl", refuse)
    (file := tmp_path / "a.jpg").write_bytes(b"mine")
    assert local.link(file, key_of(b"mine"))
    assert local.path(key_of(b"mine")).stat().st_ino == file.stat().st_ino
    assert files_in(local.folder / "tmp") == []
