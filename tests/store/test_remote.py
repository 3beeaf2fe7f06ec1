"""Files of others in an object store: listed, fetched whole, and refused where they are not what they were."""

import contextlib
from pathlib import Path

import pytest

from loopworks.core.errors import Damaged, Invalid, Missing, NotFound
from loopworks.store import remote
from loopworks.store.objects import ObjectBlobs


@pytest.fixture
def put(bucket: str, s3_environment: None) -> "Put":
    return Put(bucket)


class Put:
    """Writes objects as somebody else would."""

    def __init__(self, bucket: str) -> None:
        import obstore

        self._api, self.store = obstore, remote._client(f"s3://{bucket}")[1]

    def __call__(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            self._api.put(self.store, name, data)

    def remove(self, name: str) -> None:
        self._api.delete(self.store, name)


FILES = {"set/cat/1.jpg": b"one", "set/cat/deep/2.jpg": b"two", "set/a.json": b"{}", "settings.txt": b"no"}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("set/", ["a.json", "cat/1.jpg", "cat/deep/2.jpg"]),
        ("set", ["a.json", "cat/1.jpg", "cat/deep/2.jpg"]),
        ("set/cat/1.jpg", ["1.jpg"]),
        ("set/**/*.jpg", ["cat/1.jpg", "cat/deep/2.jpg"]),
        ("set/*/?.jpg", ["cat/1.jpg"]),
        ("set/**", ["a.json", "cat/1.jpg", "cat/deep/2.jpg"]),
        ("", sorted(FILES)),
    ],
)
def test_objects_folders_and_patterns_are_listed(path: str, names: list[str], put: Put, bucket: str) -> None:
    put(FILES)
    found = remote.entries(f"s3://{bucket}/{path}")
    assert sorted(entry.name for entry in found) == names
    assert {entry.uri.removeprefix(f"s3://{bucket}/") for entry in found} <= set(FILES)


def test_an_object_is_fetched_and_read(put: Put, bucket: str, tmp_path: Path) -> None:
    put(FILES)
    entry = remote.entries(f"s3://{bucket}/set/cat/1.jpg")[0]
    remote.fetch(entry, tmp_path / "1.jpg")
    assert (tmp_path / "1.jpg").read_bytes() == remote.read(entry.uri, entry.stamp) == b"one"
    assert entry.stamp.startswith("3:")
    assert len(list(tmp_path.iterdir())) == 1


def test_an_object_that_was_changed_or_removed_is_damaged(put: Put, bucket: str, tmp_path: Path) -> None:
    put(FILES)
    entry = remote.entries(f"s3://{bucket}/set/cat/1.jpg")[0]
    put({"set/cat/1.jpg": b"two"})
    for ask in (lambda: remote.read(entry.uri, entry.stamp), lambda: remote.fetch(entry, tmp_path / "1.jpg")):
        with pytest.raises(Damaged, match="must be as it was"):
            ask()
    put.remove("set/cat/1.jpg")
    with pytest.raises(Damaged, match="must still be there"):
        remote.read(entry.uri, entry.stamp)
    assert list(tmp_path.iterdir()) == []


def test_nothing_there_is_not_found(put: Put, bucket: str) -> None:
    put(FILES)
    for path in ("none/", "none.jpg", "se", "set/*.bmp"):
        with pytest.raises(NotFound, match="path"):
            remote.entries(f"s3://{bucket}/{path}")
    with pytest.raises(NotFound, match="bucket"):
        remote.entries("s3://no-such-bucket/x/")


def test_only_urls_of_object_stores_are_urls() -> None:
    assert remote.is_url("s3://bucket/x")
    assert remote.is_url("S3://bucket/x")
    assert not remote.is_url("s3/bucket")
    assert not remote.is_url("file:///x")
    with pytest.raises(Invalid, match="s3://bucket/path"):
        remote.read("file:///etc/passwd")


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    remote._client.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(Missing) as caught:
        remote.entries("s3://bucket/x/")
    assert "loopworks[s3]" in caught.value.hint


def test_blobs_and_files_of_others_lie_side_by_side(put: Put, bucket: str, s3_options: dict[str, str | bool]) -> None:
    put(FILES)
    with contextlib.closing(
        ObjectBlobs(f"s3://{bucket}/team", options=s3_options, client_options={"allow_http": True})
    ) as blobs:
        key = blobs.put_bytes(b"ours")
        assert [entry.name for entry in remote.entries(f"s3://{bucket}/team/")] == [f"{key[:2]}/{key}"]
