"""What each gRPC method does: the Open Inference Protocol v2 with its extensions, and gRPC's own health service."""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

import grpc
from google.protobuf import json_format

from loopworks.core.errors import Busy, Cancelled, Invalid, LoopworksError, NotFound, TimedOut
from loopworks.infer import protocol
from loopworks.infer.chains import tensors
from loopworks.infer.engine import TIMEOUT_S, Answer, Replaced, Served
from loopworks.server import described, extensions, grpc_paths, grpc_tensors
from loopworks.server.chained import Told
from loopworks.server.grpc_calls import Call, refuse, succeed
from loopworks.server.protos import health_pb2, inference_pb2
from loopworks.server.serving import KEY_HEADER, Serving
from loopworks.server.telling import Note
from loopworks.server.triton import Counted
from loopworks.store.chains import Chain

AHEAD = 64
"""Requests of one stream that may wait at once, so that they share batches."""
Admit = Callable[[Note, str, str], None]
"""Lets a call pass that asks what an HTTP request of this method and path would, or raises why not."""
Method = tuple[Any, Callable[[Any, Call], Any]]
"""The type of its request, and what it does."""


class Inference:
    """``inference.GRPCInferenceService``."""

    def __init__(self, serving: Serving, streams: int, admit: Admit) -> None:
        """Answer for ``serving`` whom ``admit`` lets in; at most ``streams`` streams at once."""
        self._admit = admit
        self._serving = serving
        self._streams = threading.BoundedSemaphore(streams)

    def unary(self) -> dict[str, Method]:
        """Methods that take one message and give one."""
        calls = {
            "ServerLive": lambda m, c: {"live": True},
            "ServerReady": lambda m, c: {"ready": self._serving.is_ready},
            "ModelReady": self._is_ready,
            "ServerMetadata": lambda m, c: described.server(),
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": lambda m, c: {"models": described.index(self._serving, m.ready)},
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": lambda m, c: {},
            "SystemSharedMemoryRegister": lambda m, c: extensions.refuse_memory("system"),
            "SystemSharedMemoryUnregister": lambda m, c: {},
            "CudaSharedMemoryStatus": lambda m, c: {},
            "CudaSharedMemoryRegister": lambda m, c: extensions.refuse_memory("CUDA"),
            "CudaSharedMemoryUnregister": lambda m, c: {},
            "TraceSetting": self._trace,
            "LogSettings": self._logs,
        }
        found = {name: _described(name, call) for name, call in calls.items()}
        return {**found, "ModelInfer": (inference_pb2.ModelInferRequest, self._infer)}

    def streams(self) -> dict[str, Method]:
        """Methods that give a stream."""
        return {"ModelStreamInfer": (inference_pb2.ModelInferRequest, self._stream)}

    # ---- inference

    def _infer(self, message: inference_pb2.ModelInferRequest, call: Call) -> inference_pb2.ModelInferResponse:
        return _Asked(self._serving, message, call, call.note, self._admit).answer()

    def _stream(self, messages: Iterator[inference_pb2.ModelInferRequest], call: Call) -> Iterator[bytes]:
        """Answers in the order of the requests, which a thread reads ahead."""
        if not self._streams.acquire(blocking=False):
            raise Busy("fewer streams must be open at once; got one more", "close one, or use single requests")
        asked: queue.Queue[_Asked | None] = queue.Queue(AHEAD)

        def read() -> None:
            try:
                with contextlib.suppress(grpc.RpcError):  # the client has left
                    for message in messages:
                        note = call.message(getattr(message, "id", ""))
                        asked.put(_Asked(self._serving, message, call, note, self._admit))
            finally:
                asked.put(None)

        reader = threading.Thread(target=read, name="grpc-stream", daemon=True)
        reader.start()
        try:
            while (one := asked.get()) is not None:
                yield one.streamed()
        finally:
            self._streams.release()
            while reader.is_alive() or not asked.empty():  # where the client has gone, it may wait for a place
                with contextlib.suppress(queue.Empty):
                    if (left := asked.get(timeout=0.01)) is not None:
                        left.cancel()

    # ---- models

    def _is_ready(self, message: Any, call: Call) -> dict[str, Any]:
        try:
            self._serving.check_ready(message.name, message.version)
        except NotFound:
            return {"ready": self._is_chain_ready(message.name, message.version)}
        return {"ready": True}

    def _is_chain_ready(self, name: str, version: str) -> bool:
        try:
            if (chain := self._serving.chains.chain(name, version)) is None:
                return False
            self._serving.chains.link(chain)
        except (NotFound, Invalid):
            return False
        return True

    def _found(self, name: str, version: str) -> Served | Chain:
        """The deployment, or the chain, of that name."""
        try:
            return self._serving.model(name, version)
        except NotFound:
            if (chain := self._serving.chains.chain(name, version)) is None:
                raise
            return chain

    def _config(self, message: Any, call: Call) -> dict[str, Any]:
        found = self._found(message.name, message.version)
        if not isinstance(found, Chain):
            return {"config": described.config(found)}
        told = described.chain_config(found)
        del told["ensemble_scheduling"]  # the messages have no place for it, nor for what is optional
        told["input"] = [{key: value for key, value in one.items() if key != "optional"} for one in told["input"]]
        return {"config": told}

    def _metadata(self, message: Any, call: Call) -> dict[str, Any]:
        served = self._found(message.name, message.version)
        if isinstance(served, Chain):
            found = described.chain(served)
            facts = found.pop("parameters")
            return {**found, "properties": {"task": facts["task"], "graph": json.dumps(facts["graph"])}}
        found = described.model(served, self._serving.engine.versions(served.name))
        facts = found.pop("parameters")
        return {**found, "properties": {name: str(facts[name]) for name in ("task", "variant")}}

    def _statistics(self, message: Any, call: Call) -> dict[str, Any]:
        serving = self._serving
        models: list[Counted] = [*serving.engine.models(), *serving.chains.ensembles()]
        if message.name:
            found = self._found(message.name, message.version)
            models = [serving.chains.ensemble(found) if isinstance(found, Chain) else found]
        return {"model_stats": [described.statistics(served) for served in models]}

    def _load(self, message: Any, call: Call) -> dict[str, Any]:
        extensions.check_load(message.parameters)
        if (chain := self._serving.chains.chain(message.model_name)) is not None:
            self._serving.chains.link(chain)
        else:
            self._serving.load(message.model_name)
        return {}

    def _unload(self, message: Any, call: Call) -> dict[str, Any]:
        extensions.check_unload(message.parameters)
        if self._serving.chains.chain(message.model_name) is not None:
            extensions.refuse_chain(message.model_name)
        self._serving.unload(message.model_name)
        return {}

    # ---- settings

    def _trace(self, message: Any, call: Call) -> dict[str, Any]:
        if message.model_name:
            self._found(message.model_name, "")
        found = extensions.trace({name: list(one.value) for name, one in message.settings.items()})
        listed = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
        return {"settings": {name: {"value": value} for name, value in listed.items()}}

    def _logs(self, message: Any, call: Call) -> dict[str, Any]:
        asked = {
            name: getattr(one, one.WhichOneof("parameter_choice") or "_", None)
            for name, one in message.settings.items()
        }
        kinds: Mapping[type, str] = {bool: "bool_param", int: "uint32_param", str: "string_param"}
        return {"settings": {name: {kinds[type(value)]: value} for name, value in extensions.logs(asked).items()}}


class Health:
    """``grpc.health.v1.Health``: the server is well until it stops."""

    SERVICES = ("", "inference.GRPCInferenceService", "grpc.health.v1.Health")

    def __init__(self, stopping: threading.Event, watchers: int) -> None:
        """Say that the server is well until ``stopping``; at most ``watchers`` may watch at once."""
        self._stopping = stopping
        self._closed = threading.Event()
        self._watchers = threading.BoundedSemaphore(watchers)

    def close(self) -> None:
        """Tell those who watch that it ends."""
        self._closed.set()

    def unary(self) -> dict[str, Method]:
        """Methods that take one message and give one."""
        return {"Check": (health_pb2.HealthCheckRequest, self._check)}

    def streams(self) -> dict[str, Method]:
        """Methods that give a stream."""
        return {"Watch": (health_pb2.HealthCheckRequest, self._watch)}

    def _check(self, message: Any, call: Call) -> Any:
        if message.service not in self.SERVICES:
            raise NotFound("service", message.service, self.SERVICES[1:])
        return self._status("NOT_SERVING" if self._is_ending() else "SERVING")

    def _watch(self, message: Any, call: Call) -> Iterator[bytes]:
        if message.service not in self.SERVICES:
            yield self._status("SERVICE_UNKNOWN").SerializeToString()
            return
        if not self._watchers.acquire(blocking=False):
            raise Busy("fewer clients must watch at once; got one more", "ask Check")
        try:
            if not self._is_ending():
                yield self._status("SERVING").SerializeToString()
            while call.context.is_active() and not self._is_ending():
                self._closed.wait(0.5)
            yield self._status("NOT_SERVING").SerializeToString()
        finally:
            self._watchers.release()

    def _is_ending(self) -> bool:
        return self._closed.is_set() or self._stopping.is_set()

    def _status(self, word: str) -> Any:
        found = health_pb2.HealthCheckResponse()
        return json_format.ParseDict({"status": word}, found)


class _Asked:
    """One inference request: checked and queued at once, answered when somebody asks for the answer."""

    def __init__(self, serving: Serving, message: Any, call: Call, note: Note, admit: Admit) -> None:
        self._serving, self._id = serving, getattr(message, "id", "")
        self._call, self._note = call, note
        self._began = time.perf_counter()
        self._decode_ns = 0
        self._name = self._version = ""
        self._future: Future[Answer] | Future[Told] | None = None
        self._error: Exception | None = None
        try:
            if isinstance(message, Invalid):
                raise message
            admit(note, *grpc_paths.same("ModelInfer", message))
            self._request = grpc_tensors.read(message)
            left = call.context.time_remaining()
            self._limit_s = min(self._request.timeout_s or TIMEOUT_S, TIMEOUT_S, TIMEOUT_S if left is None else left)
            future = self._submit(message.model_name, message.model_version, _key(self._request, note))
            self._future = future
            self._decode_ns = time.perf_counter_ns() - note.began_ns
            if not call.context.add_callback(future.cancel):
                future.cancel()  # the client has gone already
        except Exception as error:  # told when the answer is asked for, in its turn
            self._error = error

    def _submit(self, name: str, version: str, key: str) -> "Future[Answer] | Future[Told]":
        """Queue it for whoever answers now."""
        while True:
            try:
                served = self._serving.pick(name, version, key)
            except NotFound:
                if (chain := self._serving.chains.chain(name, version)) is None:
                    raise
                return self._chained(chain)
            self._name, self._version = served.name, served.version
            known = [spec.name for spec in served.bundle.outputs]
            if (unknown := [one.name for one in self._request.outputs if one.name not in known]) != []:
                raise Invalid("outputs", f"among {', '.join(known)}", ", ".join(unknown))
            try:
                return served.submit(self._request.inputs, self._limit_s)
            except Replaced:  # its successor was in place before it closed
                continue

    def _chained(self, chain: Chain) -> "Future[Told]":
        """Ask a chain; it counts its requests itself."""
        chains = self._serving.chains
        return chains.start(lambda stopped: chains.tensors(chain, self._request, self._limit_s, stopped, self._began))

    def answer(self) -> inference_pb2.ModelInferResponse:
        """The answer; raises what went wrong."""
        outcome = "internal"
        try:
            found = self._answer()
            outcome = "done"
            return found
        except LoopworksError as error:
            outcome = error.code
            raise
        finally:
            if self._name:
                self._serving.metrics.count(self._name, outcome, time.perf_counter() - self._began, self._version)

    def streamed(self) -> bytes:
        """The answer as one message of a stream: what went wrong with it is a message too."""
        try:
            found = self.answer()
            found.parameters["triton_final_response"].bool_param = True
            told = inference_pb2.ModelStreamInferResponse(infer_response=found)
            succeed(self._note)
        except LoopworksError as error:
            _, text = refuse(self._note, error, "ModelStreamInfer")
            failed = inference_pb2.ModelInferResponse(id=self._id)
            told = inference_pb2.ModelStreamInferResponse(error_message=text, infer_response=failed)
        data: bytes = told.SerializeToString()
        self._note.size_bytes = len(data)
        self._call.tell(self._note)
        return data

    def cancel(self) -> None:
        """Nobody will ask for the answer."""
        if self._future is not None:
            self._future.cancel()
        self._call.tell(self._note)

    def _answer(self) -> inference_pb2.ModelInferResponse:
        if self._error is not None or self._future is None:
            raise self._error or Cancelled()
        try:
            found = self._future.result(max(0.0, self._began + self._limit_s - time.perf_counter()))
        except CancelledError:
            raise Cancelled("the client went away before the answer") from None
        except TimeoutError:
            self._future.cancel()
            reason = f"the model must answer within {self._limit_s:g} s; got no answer"
            raise TimedOut(reason, "try again later, or wait longer") from None
        if isinstance(found, Told):
            return grpc_tensors.write(
                found.outputs, self._request, tensors.OUTPUTS, model=found.name, version=found.version
            )
        bundle = found.served.bundle
        self._note.model = f"{self._name}/{found.served.version}"
        self._note.parts_ns = (self._decode_ns, found.queue_ns, found.compute_ns)
        return grpc_tensors.write(
            found.outputs,
            self._request,
            bundle.outputs,
            model=self._name,
            version=found.served.version,
            classes=bundle.schema.classes,
        )


def _key(request: protocol.Request, note: Note) -> str:
    """By which a canary knows its share of the callers: from the call's metadata, else the request's parameters."""
    return str(note.headers.get(KEY_HEADER, "") or request.parameters.get("key", ""))


def _described(name: str, call: Callable[[Any, Any], Any]) -> Method:
    """A method whose answer is a JSON-like value."""
    request, response = getattr(inference_pb2, f"{name}Request"), getattr(inference_pb2, f"{name}Response")
    return request, lambda message, asked: json_format.ParseDict(call(message, asked) or {}, response())
