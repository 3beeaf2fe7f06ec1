"""A deployment on a Ray cluster: Ray Serve starts, spreads and heals the replicas; what answers in them is our own.

Every replica holds the same engine, rule and predictor as the server and as an edge bundle, and speaks the same routes.
The model travels through Ray's object store, so nodes share no file system; Loopworks must be installed on them.
"""

import asyncio
import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopworks.core.bundle import FILE, Bundle
from loopworks.core.errors import Denied, Failed, Invalid, Missing, NotFound
from loopworks.core.settings import quiet_libraries
from loopworks_edge.answers import LOOPBACK, Answers, Asked
from loopworks_edge.manifest import Manifest
from loopworks_edge.model import Edge

log = logging.getLogger(__name__)
WAITING = 64
"""Requests that a replica works on or holds for its next batch."""
PREFIX = "loopworks-"
"""Of the names of our applications on a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRay:
    """A deployment that answers on Ray."""

    name: str
    url: str
    """Base of its routes: ``URL/v2/models/NAME/infer``, ``URL/predict/NAME``."""
    replicas: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"name": self.name, "url": self.url, "replicas": self.replicas}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """All that a replica needs to answer, as values."""

    manifest: Manifest
    files: dict[str, bytes]
    """Relative path -> content, ``bundle.json`` among them."""
    host: str
    token: str
    workers: int

    def unpack(self, folder: Path) -> Edge:
        """Write the files, each checked against the bundle's checksums."""
        from loopworks.core import bundle as bundles

        for relative, content in self.files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Edge(manifest=self.manifest, bundle=bundles.read(folder))


class Replica:
    """One process of a deployment."""

    def __init__(self, shipped: Shipped) -> None:
        """Load the model."""
        self._folder = tempfile.TemporaryDirectory(prefix="loopworks-replica-")
        edge = shipped.unpack(Path(self._folder.name))
        # Whom the cluster's front door lets in is said there; a token is asked for here as well.
        self._answers = Answers(
            edge, host=shipped.host, token=shipped.token, variant=edge.manifest.variants[0], workers=shipped.workers
        )
        self._threads = ThreadPoolExecutor(WAITING, thread_name_prefix="request")
        self._prefix = f"/{edge.manifest.name}"

    async def __call__(self, request: Any) -> Any:
        """Answer one HTTP request."""
        from starlette.responses import Response

        path = request.scope["path"]
        asked = Asked(
            request.method,
            path.removeprefix(self._prefix) or "/",
            dict(request.headers),
            await request.body(),
        )
        reply = await asyncio.get_running_loop().run_in_executor(self._threads, self._answers.answer, asked)
        return Response(reply.body, reply.status, reply.headers, media_type=reply.kind)

    def close(self) -> None:
        """Free the model."""
        self._threads.shutdown()
        self._answers.close()
        self._folder.cleanup()

    __del__ = close


def ship(bundle: Bundle, manifest: Manifest, *, host: str, token: str, workers: int) -> Shipped:
    """A model as values that can travel; only the files that answer."""
    from loopworks.infer import edge

    with tempfile.TemporaryDirectory(prefix="loopworks-ship-") as scratch:
        folder = Path(scratch)
        kept = edge.pruned(bundle, manifest.variants, folder)
        files = {relative: (folder / relative).read_bytes() for relative in (*kept.sha256, FILE)}
    return Shipped(manifest=manifest, files=files, host=host, token=token, workers=workers)


def check(shipped: Shipped, replicas: int) -> None:
    """Refuse what cannot be, before a cluster is asked.

    Raises:
        Denied: other machines could ask without a token.
        Invalid: a number of replicas or workers that cannot be.
    """
    if shipped.host not in LOOPBACK and not shipped.token:
        raise Denied(f"a server at {shipped.host} must ask for a token; got none", "set token")
    for what, value in (("replicas", replicas), ("workers of a replica", shipped.workers)):
        if value < 1:
            raise Invalid(what, "1 or more", value)


def start(shipped: Shipped, *, port: int, replicas: int) -> OnRay:
    """Let a model answer on the cluster that this process has joined; one of the same name is replaced without a gap.

    Raises:
        Missing: Ray Serve is not installed.
        Denied, Invalid: as ``check`` says.
        Failed: the replicas did not start.
    """
    name = shipped.manifest.name
    check(shipped, replicas)
    serve = _serve()
    from ray.serve.api import RunTarget

    made = serve.deployment(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=WAITING,
        ray_actor_options={"num_cpus": shipped.workers},
    )(Replica)
    try:
        serve.start(http_options={"host": shipped.host, "port": port, "location": "HeadOnly"})
        target = RunTarget(made.bind(shipped), PREFIX + name, f"/{name}")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        _wait(serve, PREFIX + name)
    except (RuntimeError, TimeoutError) as error:
        raise Failed(f"deployment {name!r} must start on Ray; got: {_last(error)}", "ray logs say more") from None
    log.info("on ray deployment=%s replicas=%s", name, replicas)
    return OnRay(name=name, url=f"http://{shipped.host}:{port}/{name}", replicas=replicas)


def stop(name: str) -> None:
    """Take a deployment off the cluster; ``NotFound`` where it is not there."""
    serve = _serve()
    found = [app.removeprefix(PREFIX) for app in serve.status().applications if app.startswith(PREFIX)]
    if name not in found:
        raise NotFound("deployment on Ray", name, found)
    serve.delete(PREFIX + name)


def _wait(serve: Any, app: str, seconds: float = 120.0) -> None:
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        told = serve.status().applications.get(app)
        if told is not None and told.status == "RUNNING":
            return
        if told is not None and told.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RuntimeError(told.message or told.status)
        time.sleep(0.2)
    raise RuntimeError(f"{app} does not run after {seconds:.0f} s; are there free processors on the cluster?")


def _serve() -> Any:
    quiet_libraries()
    try:
        from ray import serve
    except ImportError:
        raise Missing("ray", "ray", "Ray Serve") from None
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return serve


def _last(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
