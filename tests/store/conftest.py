"""Stores of both kinds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loopworks.core.values import LabelSchema
from loopworks.store import datasets
from loopworks.store.blobs import BlobStore, LocalBlobs
from loopworks.store.catalog import Catalog, open_catalog
from loopworks.store.objects import ObjectBlobs


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    """An open catalog, on SQLite and on PostgreSQL."""
    opened = open_catalog(catalog_url, busy_timeout_s=5)
    yield opened
    opened.close()


@pytest.fixture
def dataset(catalog: Catalog) -> str:
    """Id of a dataset with classes cat and dog."""
    with catalog.begin() as tx:
        return datasets.add(tx, "pets", "image-classification", LabelSchema(classes=("cat", "dog"))).id


@pytest.fixture(params=["local", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    """An empty blob store, in a folder and in S3."""
    store: BlobStore
    if request.param == "local":
        store = LocalBlobs(tmp_path / "blobs")
    else:
        bucket = request.getfixturevalue("bucket")
        options = request.getfixturevalue("s3_options")
        store = ObjectBlobs(f"s3://{bucket}/team", options=options, client_options={"allow_http": True})
    yield store
    store.close()
