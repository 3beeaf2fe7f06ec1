"""What a blob store promises."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from loopworks.core.contracts import Blobs
from loopworks.core.errors import LoopworksError, Missing, NotFound

ABSENT = hashlib.sha256(b"nobody ever stored this").hexdigest()


class BlobsContract:
    """Bytes come back as they went in, under the SHA-256 of their content, whoever else writes at the same time.

    Give ``blobs``: an empty store.
    """

    examples: ClassVar[int] = 50
    """How many random contents the round trip is tried with; lower it for a store behind a network."""

    def blobs(self, folder: Path) -> Blobs:
        """A fresh empty store; ``folder`` is empty and the test's own."""
        raise NotImplementedError("give the blob store")

    def test_bytes_come_back_as_they_went_in(self, tmp_path: Path) -> None:
        try:
            from hypothesis import HealthCheck, example, given, settings
            from hypothesis import strategies as st
        except ImportError:
            raise Missing("hypothesis", "testing", "this contract tries random contents") from None
        blobs = self.blobs(tmp_path)

        @settings(
            max_examples=self.examples, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
        )
        @given(st.binary(max_size=4096))
        @example(b"line\r\nline\n\x00\x1a\xff")  # what text modes change
        def holds(data: bytes) -> None:
            key = blobs.put(io.BytesIO(data))
            assert key == hashlib.sha256(data).hexdigest(), "the key must be the SHA-256 of the content"
            assert blobs.read(key) == data, "read must give the bytes that were put"
            with blobs.open(key) as file:
                assert file.read() == data, "open must give the bytes that were put"

        holds()

    def test_both_ways_of_putting_give_the_same_key(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        keys = {blobs.put_bytes(b"abc"), blobs.put(io.BytesIO(b"abc")), hashlib.sha256(b"abc").hexdigest()}
        assert len(keys) == 1, f"both ways of putting must give the SHA-256 of the content; got {sorted(keys)}"

    def test_empty_and_large_contents_are_fine(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        for data in (b"", bytes(range(256)) * 40_000):
            assert blobs.read(blobs.put(io.BytesIO(data))) == data, f"{len(data)} bytes must come back whole"

    def test_only_the_rest_of_a_file_is_stored(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        file = io.BytesIO(b"header|body")
        file.seek(7)
        assert blobs.read(blobs.put(file)) == b"body", "put must store from where the file stands"

    def test_putting_twice_keeps_one(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        keys = [blobs.put_bytes(b"twice"), blobs.put_bytes(b"twice"), blobs.put(io.BytesIO(b"twice"))]
        assert len(set(keys)) == 1, "the same content must have one key"
        assert list(blobs.keys()) == keys[:1], "the same content must be kept once"

    def test_what_was_never_put_is_not_found(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        assert not blobs.has(ABSENT), "has must be false for what was never put"
        for read in (blobs.open, blobs.read):
            try:
                read(ABSENT)
            except NotFound:
                continue
            raise AssertionError("reading a blob that does not exist must raise NotFound")

    def test_deleting_removes_one_and_is_harmless_twice(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        gone, kept = blobs.put_bytes(b"gone"), blobs.put_bytes(b"kept")
        blobs.delete(gone)
        blobs.delete(gone)
        assert not blobs.has(gone), "a deleted blob must be gone"
        assert blobs.read(kept) == b"kept", "other blobs must stay"
        assert blobs.read(blobs.put_bytes(b"gone")) == b"gone", "a deleted blob must be storable again"

    def test_keys_are_all_that_is_there(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        assert list(blobs.keys()) == [], "a fresh store must be empty"
        keys = {blobs.put_bytes(str(i).encode()) for i in range(20)}
        assert sorted(blobs.keys()) == sorted(keys), "keys must give every blob once and nothing else"
        assert all(blobs.has(key) for key in keys), "has must be true for every key"

    def test_a_key_that_is_no_digest_reaches_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        (folder := tmp_path / "store").mkdir()
        blobs = self.blobs(folder)
        blobs.put_bytes(b"x")
        for key in ("", "../secret", str(tmp_path / "secret"), ABSENT[:10], "*"):
            found: object
            try:
                found = blobs.read(key)
            except Exception as error:
                found = error
            assert isinstance(found, LoopworksError), (
                f"key {key!r} must be refused with a LoopworksError; got {found!r}"
            )

    def test_many_writers_at_once_lose_nothing(self, tmp_path: Path) -> None:
        blobs = self.blobs(tmp_path)
        contents = [bytes([i % 8]) * 10_000 for i in range(32)]  # eight contents, each put by four writers
        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(lambda data: blobs.put(io.BytesIO(data)), contents))
        assert sorted(blobs.keys()) == sorted(set(keys)), "every content must be there once, and nothing half written"
        for key, data in zip(keys, contents, strict=True):
            assert blobs.read(key) == data, "a blob that four writers put at once must be whole"
