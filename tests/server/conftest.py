"""A workspace with a dataset of pictures and a real model in use, and the server before it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.core.bundle import Bundle
from loopworks.server.app import create_app
from loopworks.store import bundles, models
from loopworks.workspace import Model


def register(space: lw.Workspace, bundle: Bundle, name: str = "colors") -> Model:
    """Record a bundle as a model, as the last step of a training does."""
    key = bundles.save(space.home.blobs, bundle.folder)
    with space.home.catalog.begin() as tx:
        return models.add(tx, name, bundle=key, run="", version=bundle.version, task=bundle.task, variant=bundle.chosen)


@pytest.fixture
def add_model() -> Callable[..., Model]:
    """``add_model(space, bundle)`` records a bundle as a model."""
    return register


@pytest.fixture
def space(tmp_path: Path, colors: Any) -> Iterator[lw.Workspace]:
    """A workspace whose deployment ``colors`` tells red, green and blue apart."""
    with lw.open(tmp_path / "space") as made:
        made.deploy(register(made, colors.write(tmp_path / "bundle")), name="colors")
        yield made


@pytest.fixture
def client(space: lw.Workspace) -> Iterator[TestClient]:
    """The server of ``space``, without a socket."""
    with TestClient(create_app(space), base_url="http://127.0.0.1") as made:
        yield made


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., bytes]:
    """``photo("red")`` is a PNG file of that colour; ``size`` and ``seed`` make it another file."""

    def make(color: str, size: int = 32, seed: int = 0) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 60, (size, size, 3), np.uint8)
        pixels[..., ("red", "green", "blue").index(color)] += 150
        path = tmp_path / "photo.png"
        Image.fromarray(pixels).save(path)
        return path.read_bytes()

    return make
