"""A chain in the words of the inference protocol: an ensemble that takes images and gives its answers as JSON."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid
from loopworks.core.values import TensorSpec
from loopworks.infer import items, protocol, wire
from loopworks.infer.chains import run
from loopworks.infer.chains.graph import Graph
from loopworks.infer.chains.run import Picture
from loopworks.infer.items import Loaded

PLATFORM = "ensemble"
IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, -1, -1, 3))
FILE = TensorSpec(name="file", datatype="BYTES", shape=(-1,))
INPUTS = (IMAGE, FILE)
"""Either of them: pixels, or whole image files (in JSON as base64)."""
ANSWER = TensorSpec(name="answer", datatype="BYTES", shape=(-1,))
OUTPUTS = (ANSWER,)


def read(body: bytes, header_length: int | None) -> protocol.Request:
    """A request from its body, as ``protocol.read``; a body without header is one image file."""
    return protocol.read(body, header_length, (FILE,))


def pictures(inputs: Arrays, max_pixels: int) -> tuple[list[Picture], list[Loaded]]:
    """The images of a request, and the files among them.

    Raises: Invalid: neither ``image`` nor ``file``, or not of their type and shape, or not readable.
    """
    if len(inputs) != 1 or not set(inputs) <= {IMAGE.name, FILE.name}:
        expected = f"{IMAGE.name} ({IMAGE.datatype} {list(IMAGE.shape)}) or {FILE.name} (BYTES {list(FILE.shape)})"
        raise Invalid("inputs", expected, ", ".join(inputs) or "none")
    ((name, array),) = inputs.items()
    spec = IMAGE if name == IMAGE.name else FILE
    protocol.check(inputs, (spec,))
    if len(array) > items.MAX_FILES:
        raise Invalid(f"input {name}", f"at most {items.MAX_FILES} images", len(array), "send them in parts")
    if spec is IMAGE:
        _, height, width, _ = array.shape
        if height * width > max_pixels:
            raise Invalid(f"input {name}", f"images of at most {max_pixels} pixels", f"{width} x {height}")
        return [run.shown(np.ascontiguousarray(one), f"{name}[{i}]") for i, one in enumerate(array)], []
    loaded = [items.one(_file(one), f"{name}[{i}]", "image", max_pixels) for i, one in enumerate(array.tolist())]
    return run.pictures(loaded, max_pixels), loaded


def answers(ref: str, values: Sequence[Mapping[str, Any]], loaded: Sequence[Loaded]) -> dict[str, NDArray[Any]]:
    """The output tensor: per image the JSON that ``POST /predict`` gives; pixels have no file, and so no id.

    ``ref`` is NAME/REVISION of the chain.
    """
    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        head: dict[str, Any] = {"name": f"{IMAGE.name}[{place}]"}
        if loaded:
            one = loaded[place]
            head = {"id": f"{ref}/{one.item}", "name": one.name, "item": one.item}
        found[place] = wire.dumps({**head, **value})
    return {ANSWER.name: found}


def model(name: str, version: str, graph: Graph, authors: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the chain takes and gives."""
    return {
        "name": name,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": [spec.to_json() for spec in INPUTS],
        "outputs": [spec.to_json() for spec in OUTPUTS],
        "parameters": {"task": "chain", "models": dict(authors or graph.nodes), "graph": graph.to_json()},
    }


def _file(element: Any) -> bytes:
    """An image file; base64 of one is told apart because no image file is such text."""
    content = element if isinstance(element, bytes) else str(element).encode()
    if content.isascii():
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            return content
    return content
