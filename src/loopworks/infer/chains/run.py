"""Asking a chain: every image is decoded once, crops are views of it, and all crops for a node go as one batch.

A node answers a crop as it would answer a picture file of just that crop. Needs numpy and Pillow alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image, mask
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.infer.chains.flat import THEN
from loopworks.infer.chains.graph import Edge, Graph
from loopworks.infer.items import Loaded

Ask = Callable[[str, Arrays], Arrays]
"""Takes a node's name and a packed batch; gives the model's output tensors."""
Saw = Callable[[str, Sequence[NDArray[np.uint8]], Arrays, Arrays], None]
"""Is shown what a node was asked: its name, the crops, the same packed, and the model's output tensors."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""
Place = tuple[float, float, float, float]
"""x, y, width, height, in pixels."""
MOST_IMAGES = 32
MOST_PIXELS = 100_000_000
"""Images, and their pixels, that are worked on at once: more go in parts, so that memory stays bounded."""


@dataclass(slots=True)
class Picture:
    """One image, decoded when the first crop of it is wanted."""

    name: str
    size: tuple[int, int]
    """Width and height as it is shown, in pixels."""
    content: bytes = b""
    """The image file; empty where ``pixels`` are given."""
    max_pixels: int = image.MAX_PIXELS
    pixels: NDArray[np.uint8] | None = None
    """RGB, shape ``(height, width, 3)``."""

    @property
    def box(self) -> Box:
        """All of it."""
        return (0, 0, *self.size)

    def crop(self, box: Box) -> NDArray[np.uint8]:
        """A view, no copy."""
        if self.pixels is None:
            self.pixels = image.whole(self.content, self.name, self.max_pixels)
        left, top, right, bottom = box
        return self.pixels[top:bottom, left:right]


@dataclass(slots=True)
class Piece:
    """What a node was asked about, and its answer."""

    picture: Picture
    box: Box
    """In pixels of the whole image."""
    answer: dict[str, Any]
    _places: list[tuple[dict[str, Any], Place]] | None = field(default=None)

    @property
    def places(self) -> list[tuple[dict[str, Any], Place]]:
        """Each label of the answer with where it lies in the piece."""
        if self._places is None:
            left, top, right, bottom = self.box
            self._places = list(_places(self.answer, (right - left, bottom - top)))
        return self._places


def pictures(asked: Sequence[Loaded], max_pixels: int) -> list[Picture]:
    """Image files, not decoded yet."""
    return [
        Picture(name=one.name, size=one.size or (0, 0), content=one.content, max_pixels=max_pixels) for one in asked
    ]


def shown(pixels: NDArray[np.uint8], name: str) -> Picture:
    """An image that is decoded already."""
    return Picture(name=name, size=(pixels.shape[1], pixels.shape[0]), pixels=pixels)


def packed(rule: ImageRule, asked: Sequence[Picture]) -> Arrays:
    """Images as the tensors of the first node; ``Invalid`` where one cannot be read."""
    if all(one.pixels is None for one in asked):
        limit = asked[0].max_pixels
        return rule.pack([one.content for one in asked], names=[one.name for one in asked], max_pixels=limit)
    return {"image": np.stack([image.fitted(one.crop(one.box), rule) for one in asked])}


def batches(asked: Sequence[Picture]) -> Iterator[tuple[int, int]]:
    """Where parts begin and end, so that the pixels of one part fit into memory."""
    begin, pixels = 0, 0
    for place, one in enumerate(asked):
        more = one.size[0] * one.size[1]
        if place > begin and (place - begin == MOST_IMAGES or pixels + more > MOST_PIXELS):
            yield begin, place
            begin, pixels = place, 0
        pixels += more
    if asked:
        yield begin, len(asked)


def run(
    graph: Graph,
    bundles: Mapping[str, Bundle],
    asked: Sequence[Picture],
    first: Arrays,
    ask: Ask,
    saw: Saw | None = None,
) -> list[dict[str, Any]]:
    """The first node's answer for each image; each label that an edge passes on holds the next answers in ``then``.

    Args:
        graph: the chain.
        bundles: node -> its model.
        asked: the images.
        first: the same, packed by the first node's rule.
        ask: runs a node's model.
        saw: is shown what the nodes behind the first were asked.
    Returns: per image the first node's answer; nested answers say their ``crop`` (x, y, width, height in pixels of the
        image), and their places are in pixels of that crop.
    """
    answers: list[dict[str, Any]] = []
    for begin, end in batches(asked):
        part = asked[begin:end]
        tensors = {name: array[begin:end] for name, array in first.items()}
        said = _decoded(bundles[graph.first], ask(graph.first, tensors), [one.size for one in part])
        done = {graph.first: [Piece(one, one.box, answer) for one, answer in zip(part, said, strict=True)]}
        for node in graph.order[1:]:
            done[node] = _node(node, graph, bundles[node], done, ask, saw)
        for one in part:
            if one.content:
                one.pixels = None  # its file is there, and the next part needs the memory
        answers += said
    return answers


def _node(
    node: str, graph: Graph, bundle: Bundle, done: Mapping[str, Sequence[Piece]], ask: Ask, saw: Saw | None
) -> list[Piece]:
    """Ask a node about everything that leads to it, at once."""
    rows: list[tuple[Picture, Box, dict[str, Any]]] = []
    for edge in graph.into(node):
        others = [other for other in graph.out_of(edge.source) if not other.is_else] if edge.is_else else []
        for piece in done[edge.source]:
            taken = {id(row) for other in others for row, _ in _passed(other, piece)}
            for row, box in _passed(edge, piece, taken):
                if node not in (then := row.setdefault(THEN, {})):  # another edge may have led here already
                    then[node] = {}
                    rows.append((piece.picture, box, then))
    if not rows:
        return []
    rule = bundle.rule
    assert isinstance(rule, ImageRule), node  # ``graph.check`` has seen to it
    tensors = {"image": np.stack([image.fitted(picture.crop(box), rule) for picture, box, _ in rows])}
    sizes = [(box[2] - box[0], box[3] - box[1]) for _, box, _ in rows]
    outputs = ask(node, tensors)
    found = []
    for (picture, box, then), size, answer in zip(rows, sizes, _decoded(bundle, outputs, sizes), strict=True):
        then[node] = {"crop": [box[0], box[1], *size], **answer}
        found.append(Piece(picture, box, then[node]))
    if saw is not None:
        saw(node, [picture.crop(box) for picture, box, _ in rows], tensors, outputs)
    return found


def _passed(
    edge: Edge, piece: Piece, taken: set[int] | frozenset[int] = frozenset()
) -> Iterator[tuple[dict[str, Any], Box]]:
    """The labels of an answer that an edge passes on and nobody has taken, each with its place in the whole image."""
    left, top, right, bottom = piece.box
    count = 0
    for row, (x, y, width, height) in piece.places:
        if id(row) in taken or (edge.labels and row["label"] not in edge.labels):
            continue
        wide, high = edge.margin * width, edge.margin * height
        box = (
            max(left, round(left + x - wide)),
            max(top, round(top + y - high)),
            min(right, round(left + x + width + wide)),
            min(bottom, round(top + y + height + high)),
        )
        side = min(box[2] - box[0], box[3] - box[1])
        if row["score"] < edge.score or side < edge.size or count == edge.most:
            continue
        count += 1
        yield row, box


def _places(answer: Mapping[str, Any], size: tuple[int, int]) -> Iterator[tuple[dict[str, Any], Place]]:
    """Each label of an answer with its x, y, width and height in pixels; classes of the whole image lie all over it."""
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    chosen = answer.get("chosen")
    for row in answer.get("labels", answer.get("regions", ())):
        if "box" in row:
            x, y, wide, high = row["box"]
            yield row, (x, y, wide, high)
        elif "mask" in row:
            height, width = row["mask"]["size"]
            inside = mask.decode(row["mask"]["counts"], height, width)
            down, across = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            if len(down):
                x, y = float(across[0]), float(down[0])
                yield row, (x, y, float(across[-1] - across[0] + 1), float(down[-1] - down[0] + 1))
        elif chosen is None or row["label"] in chosen:
            yield row, whole


def _decoded(bundle: Bundle, outputs: Arrays, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    task: Learnable = plugins.get(f"task.{bundle.task}")
    if any(len(array) != len(sizes) for array in outputs.values()):
        raise Invalid("answer of a chain's node", f"{len(sizes)} rows", {k: v.shape for k, v in outputs.items()})
    return task.decode(outputs, bundle.schema, sizes)
