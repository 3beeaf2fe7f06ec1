"""A whole tabular model: a weighted sum of members, calibrated, as files of a bundle."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Variant
from loopworks.core.values import TensorSpec
from loopworks.train.tables.calibrate import Calibration
from loopworks.train.tables.graph import Graph
from loopworks.train.tables.members import Member, load

FILE, PARTS = "model.onnx", "parts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Members with their weights; then chances of classes, or a number in the target's unit."""

    members: Sequence[Member]
    weights: Sequence[float]
    calibration: Calibration = Calibration()
    is_number: bool = False
    middle: float = 0.0
    """Of a number: what is added to the scaled answer."""
    spread: float = 1.0
    """Of a number: what the answer is multiplied by."""

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The members' weighted sum, shape ``(rows, columns)``."""
        parts = [weight * member.raw(features) for member, weight in zip(self.members, self.weights, strict=True)]
        return np.asarray(np.sum(parts, axis=0))

    def answer(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Chances ``(rows, classes)`` or numbers ``(rows, 1)``."""
        raw = self.raw(features)
        return self.middle + self.spread * raw if self.is_number else self.calibration.chances(raw)

    def parts(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The final score taken apart: ``(rows, features, columns)`` and the base ``(columns,)``.

        The score is the number, in its unit, or the log-odds behind the chances (before isotonic bending).
        """
        found = [member.parts(features) for member in self.members]
        each = np.sum([weight * told for weight, (told, _) in zip(self.weights, found, strict=True)], axis=0)
        base = np.sum([weight * rest for weight, (_, rest) in zip(self.weights, found, strict=True)], axis=0)
        if self.is_number:
            return self.spread * each, self.middle + self.spread * base
        return self.calibration.scale * each, self.calibration.scale * base + self.calibration.shift

    def save(self, folder: Path, width: int, output: TensorSpec) -> Variant:
        """Write the ONNX file, and beside it what explanations are made of."""
        graph = Graph(width)
        total = ""
        for member, weight in zip(self.members, self.weights, strict=True):
            part = member.add(graph)
            part = part if weight == 1.0 else graph.node("Mul", part, graph.constant(np.asarray(weight)))
            total = graph.node("Add", total, part) if total else part
        if self.is_number:
            total = graph.node("Mul", total, graph.constant(np.asarray(self.spread)))
            total = graph.node("Add", total, graph.constant(np.asarray(self.middle)))
        else:
            total = self.calibration.add(graph, total, 1 if output.shape[1] == 2 else output.shape[1])
        graph.save(folder / FILE, total, output.name, output.shape[1])
        told = [
            {**member.save(folder, place), "weight": weight}
            for place, (member, weight) in enumerate(zip(self.members, self.weights, strict=True))
        ]
        body = {
            "members": told,
            "scale": self.calibration.scale,
            "shift": self.calibration.shift,
            "is_number": self.is_number,
            "middle": self.middle,
            "spread": self.spread,
        }
        (folder / PARTS).write_text(json.dumps(body, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
        size = (folder / FILE).stat().st_size
        return Variant(
            name="onnx-fp32", runtime="onnxruntime", precision="fp32", file=FILE, files=(FILE,), size_bytes=size
        )

    @classmethod
    def read(cls, folder: Path) -> "Blend":
        """What ``save`` wrote, for explanations: without the isotonic part."""
        body = json.loads((folder / PARTS).read_text(encoding="utf-8"))
        return cls(
            members=[load(told, folder) for told in body["members"]],
            weights=[told["weight"] for told in body["members"]],
            calibration=Calibration(scale=body["scale"], shift=body["shift"]),
            is_number=body["is_number"],
            middle=body["middle"],
            spread=body["spread"],
        )
