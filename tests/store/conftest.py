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


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Address of a local S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_options(s3: str) -> dict[str, str | bool]:
    return {
        "endpoint": s3,
        "region": "us-east-1",
        "access_key_id": "test",
        "secret_access_key": "test",
        "virtual_hosted_style_request": False,
    }


@pytest.fixture
def bucket(s3: str) -> str:
    """Name of a new bucket."""
    import urllib.request

    name = "blobs"
    for path in ("/moto-api/reset", f"/{name}"):
        method = "POST" if path.startswith("/moto-api") else "PUT"
        with urllib.request.urlopen(urllib.request.Request(s3 + path, method=method)):
            pass
    return name


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
