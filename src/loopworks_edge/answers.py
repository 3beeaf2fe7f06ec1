"""What a bundle's model says to requests: Open Inference Protocol v2 (REST) and plain predictions, whoever listens.

The engine behind it is the server's: requests that wait together are answered as one batch.
"""

import hmac
import logging
import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from loopworks.core.errors import (
    Denied,
    Invalid,
    LoopworksError,
    MethodNotAllowed,
    NotFound,
    TimedOut,
    Unauthorized,
    from_json,
)
from loopworks.core.values import Problem
from loopworks.infer import described, items, protocol, stage, wire
from loopworks.infer.chains import tensors
from loopworks.infer.chains.linked import Linked
from loopworks.infer.chains.run import pictures
from loopworks.infer.engine import TIMEOUT_S, Engine, Served
from loopworks_edge import rows
from loopworks_edge.model import Edge

log = logging.getLogger(__name__)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EXTENSIONS = ("binary_tensor_data", "classification")
RAW = {"image": "image/", "text": "text/"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes = b""

    def header(self, name: str) -> str:
        """A header; empty where there is none."""
        return self.headers.get(name, "")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Answers:
    """One loaded model, and who may ask it."""

    def __init__(
        self,
        edge: Edge,
        *,
        host: str = "127.0.0.1",
        token: str = "",
        is_open: bool = False,
        variant: str = "",
        workers: int = 1,
    ) -> None:
        """Load the model.

        Args:
            edge: what answers.
            host: address that listens; another than loopback needs ``token`` or ``is_open``.
            token: secret that clients must send as ``Authorization: Bearer ...``; empty asks for none.
            is_open: answer other machines without a token, behind a gateway that asks for one.
            variant: which variant answers; empty: the first.
            workers: threads that run the model.
        Raises: Denied: other machines could ask without a token.
        """
        self.is_local = host in LOOPBACK
        if not (self.is_local or token or is_open):
            raise Denied(
                f"a server at {host} must ask for a token; got none", "give --token, or --open behind a gateway"
            )
        self.edge = edge
        self.token = token
        self.engine = Engine(workers=workers)
        try:
            self._loaded = edge.into(self.engine, variant)
        except BaseException:
            self.engine.close()
            raise

    def close(self) -> None:
        """Answer what waits, and free the model."""
        self.engine.close()

    def answer(self, asked: Asked) -> Reply:
        """The reply to a request; whatever goes wrong is one."""
        try:
            self._check(asked)
            return self._route(asked, [unquote(part) for part in asked.path.strip("/").split("/")])
        except LoopworksError as error:
            return failed(asked.path, error)
        except Exception:  # the top of a request: whatever it is, the client gets one clear answer
            log.exception("request failed path=%s", asked.path)
            return failed(asked.path, from_json({"error": {"code": "failed", "message": "internal error"}}))

    def _route(self, asked: Asked, parts: list[str]) -> Reply:
        match asked.method, parts:
            case "GET", ["v2", "health", "live"]:
                return _json({"live": True})
            case "GET", ["v2", "health", "ready"]:
                return _json({"ready": True})
            case "GET", ["v2"]:
                return _json(described.server(*EXTENSIONS))
            case "GET", ["v2", "models", name]:
                return _json(self._described(self._model(name)))
            case "GET", ["v2", "models", name, "versions", version]:
                return _json(self._described(self._model(name, version)))
            case "GET", ["v2", "models", name, "ready"]:
                return _json({"name": self._model(name).name, "ready": True})
            case "GET", ["v2", "models", name, "versions", version, "ready"]:
                return _json({"name": self._model(name, version).name, "ready": True})
            case "POST", ["v2", "models", name, "infer"]:
                return self._infer(self._model(name), asked)
            case "POST", ["v2", "models", name, "versions", version, "infer"]:
                return self._infer(self._model(name, version), asked)
            case "POST", ["predict", name]:
                return self._predict(self._model(name), asked)
            case _, ["v2", "models", *_, "infer"] | ["v2", "models", *_, "ready"] | ["v2", "models", _] | ["v2"]:
                raise MethodNotAllowed(f"route {asked.path!r} must be asked with another method; got {asked.method}")
            case _, ["predict", _] | ["v2", "health", "live" | "ready"]:
                raise MethodNotAllowed(f"route {asked.path!r} must be asked with another method; got {asked.method}")
        raise NotFound("route", f"{asked.method} {asked.path}", hint="the README lists all routes")

    def _model(self, name: str, version: str = "") -> Served | Linked:
        """What answers; ``NotFound`` for any other name or version."""
        if isinstance(self._loaded, Served):
            return self.engine.model(name, version)
        if name != self._loaded.name:
            raise NotFound("model", name, [self._loaded.name])
        if version not in ("", str(self._loaded.revision)):
            raise NotFound(f"version of model {name!r}", version, [str(self._loaded.revision)])
        return self._loaded

    def _described(self, found: Served | Linked) -> dict[str, Any]:
        if isinstance(found, Served):
            return described.model(found)
        return tensors.model(found.name, str(found.revision), found.graph)

    def _infer(self, served: Served | Linked, request: Asked) -> Reply:
        """Answer tensors with tensors."""
        if isinstance(served, Linked):
            return self._infer_chain(served, request)
        asked = protocol.read(request.body, _header_length(request), served.bundle.inputs)
        names = [spec.name for spec in served.bundle.outputs]
        if (unknown := [one.name for one in asked.outputs if one.name not in names]) != []:
            raise Invalid("outputs", f"among {', '.join(names)}", ", ".join(unknown))
        found = _result(served, asked.inputs, min(asked.timeout_s or TIMEOUT_S, TIMEOUT_S))
        content, length = protocol.write(
            found.outputs,
            asked,
            served.bundle.outputs,
            model=served.name,
            version=served.version,
            classes=served.bundle.schema.classes,
        )
        return _tensors(content, length)

    def _infer_chain(self, linked: Linked, request: Asked) -> Reply:
        asked = tensors.read(request.body, _header_length(request))
        names = [spec.name for spec in tensors.OUTPUTS]
        if (unknown := [one.name for one in asked.outputs if one.name not in names]) != []:
            raise Invalid("outputs", f"among {', '.join(names)}", ", ".join(unknown))
        images, loaded = tensors.pictures(asked.inputs, self.edge.manifest.max_pixels)
        said = linked.answer(images, limit_s=min(asked.timeout_s or TIMEOUT_S, TIMEOUT_S))
        outputs = tensors.answers(linked.ref, said.values, loaded)
        version = str(linked.revision)
        return _tensors(*protocol.write(outputs, asked, tensors.OUTPUTS, model=linked.name, version=version))

    def _predict(self, served: Served | Linked, request: Asked) -> Reply:
        """Answer items: an image or text as the body, rows as CSV, or JSON with images in base64, texts or rows."""
        edge = self.edge
        began = time.perf_counter()
        asked, problems = _items(edge.media, request)
        loaded, bad = items.load_each(asked, edge.media, edge.manifest.max_pixels)
        good, inputs, worse = (
            items.packed(edge.bundle.rule, loaded, edge.manifest.max_pixels) if loaded else ([], {}, [])
        )
        problems = [*problems, *bad, *worse]
        if not good:
            if not problems:
                raise Invalid("items", "at least one", "none")
            raise from_json({"error": {**problems[0].to_json(), "code": problems[0].error}})
        decoded = time.perf_counter()
        if isinstance(served, Linked):
            said = served.answer(pictures(good, edge.manifest.max_pixels), inputs, limit_s=TIMEOUT_S)
            return _json({
                "deployment": served.name,
                "revision": served.revision,
                "models": served.authors(),
                "predictions": [edge.prediction(one, value) for one, value in zip(good, said.values, strict=True)],
                "problems": [problem.to_json() for problem in problems],
                "timings_ms": {
                    "decode": _ms(decoded - began),
                    "queue": _ms(said.queue_ns / 1e9),
                    "compute": _ms(said.compute_ns / 1e9),
                    "total": _ms(time.perf_counter() - began),
                },
            })
        found = _result(served, inputs, TIMEOUT_S)
        answers = stage.answers(served, found.outputs, [one.size for one in good if one.size is not None])
        return _json({
            "deployment": served.name,
            "revision": edge.manifest.revision,
            "model": f"{edge.manifest.model}:{edge.manifest.number}",
            "variant": served.variant.name,
            "predictions": [edge.prediction(one, answer) for one, answer in zip(good, answers, strict=True)],
            "problems": [problem.to_json() for problem in problems],
            "timings_ms": {
                "decode": _ms(decoded - began),
                "queue": _ms(found.queue_ns / 1e9),
                "compute": _ms(found.compute_ns / 1e9),
                "total": _ms(time.perf_counter() - began),
            },
        })

    def _check(self, asked: Asked) -> None:
        """Who may ask."""
        host = (urlsplit(f"//{asked.header('host')}").hostname or "").lower()
        if self.is_local and host not in LOOPBACK:
            raise Denied(f"host must be this machine; got {host}", "other sites' pages may not ask")
        if self.token and not asked.path.startswith("/v2/health/"):
            told = asked.header("authorization").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(told.encode(), self.token.encode()):
                raise Unauthorized("the token must be the server's; got another, or none", "Authorization: Bearer ...")


def _items(media: str, request: Asked) -> tuple[list[tuple[str, items.Asked]], list[Problem]]:
    kind = request.header("content-type").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            told = wire.loads(request.body)
        except ValueError as error:
            raise Invalid("request body", "JSON in UTF-8", str(error)) from None
        if not isinstance(told, dict):
            raise Invalid("request body", "a JSON object", type(told).__name__)
        return items.named(told, media), []
    if media == "row" and kind in rows.KINDS:
        found, problems = rows.parse(request.body, rows.KINDS[kind])
        if len(found) > items.MAX_ROWS:
            raise Invalid("rows", f"at most {items.MAX_ROWS}", len(found), "send them in parts")
        return [(f"row {place}", row) for place, row in enumerate(found, 1)], problems
    if media in RAW and (kind.startswith(RAW[media]) or kind in ("application/octet-stream", "")):
        return ([(media, request.body)] if request.body else []), []
    accepted = "text/csv" if media == "row" else f"{RAW[media]}*"
    raise Invalid("content-type", f"{accepted} or application/json", kind)


def _header_length(request: Asked) -> int | None:
    text = request.header(protocol.HEADER_LENGTH.lower())
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Invalid(protocol.HEADER_LENGTH, "a whole number from 0", text)
    return int(text)


def failed(path: str, error: LoopworksError) -> Reply:
    """An error as the route's protocol has it: ours with code and hint, the inference protocol's as one text."""
    headers = {"Retry-After": "1"} if error.status == 503 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    told = error.to_json()["error"]
    if path != "/v2" and not path.startswith("/v2/"):
        return _json({"error": told}, error.status, headers)
    sentence = told["message"] + (f" ({told['hint']})" if told["hint"] else "")
    return _json({"error": sentence}, 400 if error.status in (409, 422) else error.status, headers)


def _result(served: Served, inputs: Any, timeout_s: float) -> Any:
    future = served.submit(inputs, timeout_s)
    try:
        return future.result(timeout_s + 1)
    except Late:
        future.cancel()
        raise TimedOut(f"model {served.name!r} must answer within {timeout_s:g} s; got nothing") from None


def _tensors(content: bytes, length: int | None) -> Reply:
    if length is None:
        return Reply(content)
    return Reply(content, kind="application/octet-stream", headers={protocol.HEADER_LENGTH: str(length)})


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(wire.dumps(body), status, headers=headers or {})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
