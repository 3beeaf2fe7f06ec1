"""The same deployment through Ray Serve, on a small Ray of this machine."""

import http.client
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Denied, Invalid, Missing, NotFound
from loopworks.core.settings import quiet_libraries
from loopworks.infer import protocol
from loopworks.infer.rayserve import OnRay
from loopworks.server.run import ServerThread
from loopworks.store import bundles, models

NAME = "image-classification"
pytestmark = pytest.mark.filterwarnings(  # Ray Serve's own, at its import
    "ignore::pydantic.warnings.PydanticDeprecatedSince20", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, kinds: Mapping[str, Any]) -> Iterator[lw.Workspace]:
    with lw.open(tmp_path_factory.mktemp("ray") / "space") as made:
        key = bundles.save(made.home.blobs, kinds[NAME].bundle.folder)
        with made.home.catalog.begin() as tx:
            model = models.add(tx, NAME, bundle=key, run="", version="0" * 64, task=NAME, variant="first")
        made.deploy(model)
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, with 80 MB for objects and no dashboard."""
    import ray
    from ray import serve

    quiet_libraries()
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(lw.__file__).parents[1])}},
    )
    yield
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


@pytest.fixture(scope="module")
def on_ray(space: lw.Workspace, cluster: None) -> OnRay:
    return space.serve_on_ray(NAME)


def post(url: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    host, _, rest = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("POST", f"/{rest}{path}" if rest else path, body, dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_servers_answers_bit_for_bit(
    space: lw.Workspace, on_ray: OnRay, kinds: Mapping[str, Any]
) -> None:
    kind = kinds[NAME]
    tensors, length = protocol.ask(kind.bundle.rule.pack(kind.contents[:1]))
    asked = [
        (f"/predict/{NAME}", kind.contents[0], {"Content-Type": "image/png"}),
        (f"/v2/models/{NAME}/infer", tensors, {protocol.HEADER_LENGTH: str(length)}),
        (f"/v2/models/{NAME}/infer", b"{}", {}),
        ("/v2/models/nobody/infer", b"{}", {}),
    ]
    with ServerThread(space) as server:
        for path, body, headers in asked:
            (status, here), (expected, there) = (post(url, path, body, headers) for url in (on_ray.url, server.url))
            assert status == expected
            if path.startswith("/predict"):
                told, known = (
                    {key: value for key, value in json.loads(one).items() if key != "timings_ms"}
                    for one in (here, there)
                )
                assert told == known
            else:
                assert here == there


@pytest.mark.ray
@pytest.mark.slow
def test_requests_that_wait_together_are_answered_each_with_its_own(on_ray: OnRay) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 1, 16, 16, 3), np.uint8)

    def work(image: Any) -> Any:
        body, length = protocol.ask({"image": image})
        status, content = post(on_ray.url, f"/v2/models/{NAME}/infer", body, {protocol.HEADER_LENGTH: str(length)})
        assert status == 200
        return np.frombuffer(content[-12:], "<f4")

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, images))
    alone = [work(image) for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len({one.tobytes() for one in alone}) == len(alone)


@pytest.mark.ray
@pytest.mark.slow
def test_it_can_be_taken_off_and_the_next_stop_says_so(space: lw.Workspace, on_ray: OnRay) -> None:
    space.stop_on_ray(NAME)
    with pytest.raises(NotFound, match="deployment on Ray 'image-classification' does not exist"):
        space.stop_on_ray(NAME)


def test_without_ray_the_extra_is_named(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(Missing) as caught:
        space.serve_on_ray(NAME)
    assert "loopworks[ray]" in caught.value.hint


def test_what_cannot_be_is_refused_before_ray_starts(space: lw.Workspace, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="replicas must be 1 or more; got 0"):
        space.serve_on_ray(NAME, replicas=0)
    with pytest.raises(NotFound, match="deployment or model 'nobody'"):
        space.serve_on_ray("nobody")
    with lw.open(space.folder, host="0.0.0.0") as wide, pytest.raises(Denied, match="must ask for a token"):
        wide.serve_on_ray(NAME)


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_takes_off_what_is_there(space: lw.Workspace, on_ray: OnRay) -> None:
    space.serve_on_ray(NAME)
    words = ["deploy", NAME, "--ray", "--replicas", "0", "-w", str(space.folder), "--json"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"ray": {"name": NAME, "replicas": 0}})
    assert CliRunner().invoke(app, words).exit_code == 2
