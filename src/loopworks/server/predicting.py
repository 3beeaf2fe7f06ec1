"""A picture in, the answer for people out: the commonest plain request, past ASGI, by one thread from bytes to JSON.

The worker that runs the model decodes the picture and writes the answer, too: it is warm in that core's caches, and
handing it from thread to thread costs a tenth of a small network's time. All other plain requests (forms, JSON, texts,
rows, other forms of answers, chains) go through the application, with the same answers.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid
from loopworks.infer.engine import TIMEOUT_S, Answer, Served
from loopworks.infer.items import Loaded
from loopworks.server import asked as plain
from loopworks.server.answer import Reply, dumps
from loopworks.server.asking import Asked, Asking
from loopworks.server.serving import Serving


class Predicting(Asking):
    """Answers requests whose whole body is one picture."""

    def __init__(self, serving: Serving) -> None:
        """Ask the models of ``serving``."""
        super().__init__(serving)
        self._max_pixels = serving.space.settings.max_image_pixels

    def takes(self, name: str, headers: Mapping[str, str]) -> bool:
        """Whether a request for deployment ``name`` with these headers (names in lower case) is of this kind."""
        kind = headers.get("content-type", "")
        if not kind.startswith("image/") or "content-encoding" in headers or headers.get("accept", "*/*") != "*/*":
            return False
        served = self._serving.engine.front(name)
        return served is not None and served.bundle.rule.media == "image"

    def _found_model(self, asked: Asked, served: Served) -> None:
        asked.served = served
        if not asked.body:
            raise Invalid("items", "at least one", "none")
        if served.bundle.rule.media != "image":  # it was replaced since its headers came
            raise Invalid("content-type", plain.BODIES[served.bundle.rule.media], asked.head.headers["content-type"])
        picture = Picture(served, asked.body, self._max_pixels)
        if served.limits.workers >= self._serving.cores:
            self._submitted(asked, picture, served.submit_made(picture.decode, TIMEOUT_S))
        else:  # fewer workers than cores: decoding beside them uses the others
            self._apart(asked, partial(self._decoded, picture), picture.decode)

    def _decoded(self, picture: "Picture", asked: Asked, inputs: Arrays) -> None:
        self._submitted(asked, picture, picture.served.submit(inputs, TIMEOUT_S))

    def _submitted(self, asked: Asked, picture: "Picture", future: "Future[Answer]") -> None:
        asked.picture = picture
        future.add_done_callback(partial(_describe, asked, picture))  # before the one that hands over
        self._wait(asked, future)

    def _answered(self, asked: Asked) -> None:
        picture = asked.picture
        if asked.is_over or asked.future is None or picture is None:
            return
        try:
            found = asked.future.result()
            if asked.error is not None:
                raise asked.error
        except Exception as error:  # told to the client, whatever it is
            self._refuse(asked, error)
            return
        asked.parts_ns = (picture.decode_ns, found.queue_ns, found.compute_ns)
        self._end(asked, "done", Reply(200, {}, asked.answer or b""))
        self._serving.watch.offer(found.served, picture.items, picture.tensors, found.outputs)


class Picture:
    """One picture on its way through a worker."""

    def __init__(self, served: Served, content: bytes, max_pixels: int) -> None:
        self.served = served
        self.items: list[Loaded] = []
        self.tensors: Arrays = {}
        self.decode_ns = 0
        self._content = content
        self._max_pixels = max_pixels

    def decode(self) -> Arrays:
        """The model's inputs; ``Invalid`` where it is no picture."""
        began = time.perf_counter_ns()
        self.items, self.tensors, problems = plain.decode(
            self.served, [plain.Asked("image", self._content)], self._max_pixels
        )
        if problems:
            raise plain.error_of(problems[0])
        self.decode_ns = time.perf_counter_ns() - began
        return self.tensors

    def answered(self, found: Answer, began: float) -> bytes:
        """The body of the answer; ``began`` is when the request came, by ``time.perf_counter``."""
        said = plain.said_of(found.served, self.items, [], self.tensors, found, self.decode_ns / 1e9, self._max_pixels)
        return dumps(said.to_json(began))


def _describe(asked: Asked, picture: Picture, future: "Future[Answer]") -> None:
    """In the worker: write the answer."""
    if asked.is_over or future.cancelled() or future.exception() is not None:
        return
    try:
        asked.answer = picture.answered(future.result(), asked.began / 1e9)
    except Exception as error:  # told by ``_answered``: nobody else hears of what a callback of a future raises
        asked.error = error
