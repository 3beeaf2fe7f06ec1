"""A workspace with a dataset of pictures and a real model in use, and the server before it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.core.bundle import Bundle
from loopworks.core.errors import NotFound
from loopworks.jobs import Job
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


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, colors: Any) -> Path:
    """A workspace folder that the tests copy, as making one takes longer than most of them."""
    root = tmp_path_factory.mktemp("template")
    with lw.open(root / "space") as made:
        made.deploy(register(made, colors.write(root / "bundle")), name="colors")
    return root / "space"


@pytest.fixture
def space(tmp_path: Path, template: Path) -> Iterator[lw.Workspace]:
    """A workspace whose deployment ``colors`` tells red, green and blue apart."""
    shutil.copytree(template, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
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


@dataclass
class Scripted:
    """Jobs that go through a script: each look takes the next state."""

    script: list[Job] = field(default_factory=list)
    submitted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def submit(self, step: str, params: dict[str, Any], *, title: str = "", key: str | None = None) -> str:
        self.submitted.append((step, params))
        return "j1"

    def get(self, job_id: str) -> Job:
        if job_id != "j1":
            raise NotFound("job", job_id, ["j1"])
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def list(self, limit: int = 50, status: str | None = None) -> list[Job]:
        return self.script[:limit]

    def wake(self) -> bool:
        return False

    def cancel(self, job_id: str) -> Job:
        self.cancelled.append(job_id)
        return self.get(job_id)

    def close(self) -> None:
        """Nothing runs."""


JOB = Job(
    id="j1", step="train", title="train litter", params={}, status="queued", created_at=datetime(2026, 1, 2, tzinfo=UTC)
)


@pytest.fixture
def jobs(space: lw.Workspace) -> Iterator[Scripted]:
    scripted = Scripted([JOB])
    space._jobs = scripted  # type: ignore[assignment]
    yield scripted
    space._jobs = None
