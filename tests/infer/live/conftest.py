"""A workspace whose deployment finds a red square."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import loopworks as lw
from loopworks.core.bundle import Bundle
from loopworks.store import bundles, models


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, balls: Callable[..., Bundle]) -> Path:
    root = tmp_path_factory.mktemp("balls")
    bundle = balls(root / "bundle")
    with lw.open(root / "space") as made:
        key = bundles.save(made.home.blobs, bundle.folder)
        with made.home.catalog.begin() as tx:
            models.add(tx, "balls", bundle=key, run="", version="0" * 64, task=bundle.task, variant=bundle.chosen)
        made.deploy("balls")
    return root / "space"


@pytest.fixture
def space(tmp_path: Path, template: Path) -> Iterator[lw.Workspace]:
    """A workspace whose deployment ``balls`` finds a red square."""
    shutil.copytree(template, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
        yield made
