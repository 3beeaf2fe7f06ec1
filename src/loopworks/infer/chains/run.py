"""Asking a chain: every image is decoded once, crops are views of it, and all crops for a node go as one batch.

A node answers a crop as it would answer a picture file of just that crop.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image, mask
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.infer.chains.graph import Edge, Graph
from loopworks.infer.items import Loaded

Ask = Callable[[str, Arrays], Arrays]
"""Takes a node's name and a packed batch; gives the model's output tensors."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""
THEN = "then"


@dataclass(slots=True)
class _Piece:
    """What a node was asked about, and its answer."""

    picture: "_Picture"
    box: Box
    """In pixels of the whole image."""
    answer: dict[str, Any]


@dataclass(slots=True)
class _Picture:
    """One image, decoded when the first crop of it is wanted."""

    loaded: Loaded
    max_pixels: int
    _pixels: NDArray[np.uint8] | None = None

    @property
    def box(self) -> Box:
        width, height = self.loaded.size or (0, 0)
        return (0, 0, width, height)

    def crop(self, box: Box) -> NDArray[np.uint8]:
        """A view, no copy."""
        if self._pixels is None:
            self._pixels = image.whole(self.loaded.content, self.loaded.name, self.max_pixels)
        left, top, right, bottom = box
        return self._pixels[top:bottom, left:right]


def run(
    graph: Graph,
    bundles: Mapping[str, Bundle],
    asked: Sequence[Loaded],
    first: Arrays,
    ask: Ask,
    *,
    max_pixels: int,
) -> list[dict[str, Any]]:
    """The first node's answer for each image; each label that an edge passes on holds the next answers in ``then``.

    Args:
        graph: the chain.
        bundles: node -> its model.
        asked: the images.
        first: the same, packed by the first node's rule.
        ask: runs a node's model.
        max_pixels: larger images are refused.
    Returns: per image the first node's answer; nested answers say their ``crop`` (x, y, width, height in pixels of the
        image), and their places are in pixels of that crop.
    """
    start = graph.order[0]
    pictures = [_Picture(one, max_pixels) for one in asked]
    sizes = [one.size for one in asked if one.size is not None]
    answers = _decoded(bundles[start], ask(start, first), sizes)
    done = {start: [_Piece(picture, picture.box, answer) for picture, answer in zip(pictures, answers, strict=True)]}
    for node in graph.order[1:]:
        done[node] = _node(node, graph.into(node), bundles[node], done, ask)
    return answers


def _node(
    node: str, edges: Sequence[Edge], bundle: Bundle, done: Mapping[str, Sequence[_Piece]], ask: Ask
) -> list[_Piece]:
    """Ask a node about everything that leads to it, at once."""
    rows: list[tuple[_Picture, Box, dict[str, Any]]] = []
    for edge in edges:
        for piece in done[edge.source]:
            for row, box in _passed(edge, piece):
                if node not in (then := row.setdefault(THEN, {})):  # another edge may have led here already
                    then[node] = {}
                    rows.append((piece.picture, box, then))
    if not rows:
        return []
    rule = bundle.rule
    assert isinstance(rule, ImageRule), node  # ``graph.check`` has seen to it
    packed = np.stack([image.fitted(picture.crop(box), rule) for picture, box, _ in rows])
    sizes = [(box[2] - box[0], box[3] - box[1]) for _, box, _ in rows]
    found = []
    for (picture, box, then), size, answer in zip(
        rows, sizes, _decoded(bundle, ask(node, {"image": packed}), sizes), strict=True
    ):
        then[node] = {"crop": [box[0], box[1], *size], **answer}
        found.append(_Piece(picture, box, then[node]))
    return found


def _passed(edge: Edge, piece: _Piece) -> Iterator[tuple[dict[str, Any], Box]]:
    """The labels of an answer that an edge passes on, each with its place in the whole image."""
    left, top, right, bottom = piece.box
    count = 0
    for row, place in _places(piece.answer, (right - left, bottom - top)):
        if edge.labels and row["label"] not in edge.labels:
            continue
        x, y, width, height = place
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


def _places(
    answer: Mapping[str, Any], size: tuple[int, int]
) -> Iterator[tuple[dict[str, Any], tuple[float, float, float, float]]]:
    """Each label of an answer with its x, y, width and height in pixels; classes of the whole image lie all over it."""
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    chosen = answer.get("chosen")
    for row in answer.get("labels", answer.get("regions", ())):
        if "box" in row:
            yield row, tuple(row["box"])
        elif "mask" in row:
            height, width = row["mask"]["size"]
            inside = mask.decode(row["mask"]["counts"], height, width)
            down, across = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            if len(down):
                yield (
                    row,
                    (
                        float(across[0]),
                        float(down[0]),
                        float(across[-1] - across[0] + 1),
                        float(down[-1] - down[0] + 1),
                    ),
                )
        elif chosen is None or row["label"] in chosen:
            yield row, whole


def _decoded(bundle: Bundle, outputs: Arrays, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    task: Learnable = plugins.get(f"task.{bundle.task}")
    if any(len(array) != len(sizes) for array in outputs.values()):
        raise Invalid("answer of a chain's node", f"{len(sizes)} rows", {k: v.shape for k, v in outputs.items()})
    return task.decode(outputs, bundle.schema, sizes)
