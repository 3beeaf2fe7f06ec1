"""The model, or chain, of an edge bundle: checked, loaded, asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core import row, rules, text
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Predictor
from loopworks.core.errors import LoopworksError, NotFound
from loopworks.core.values import Problem
from loopworks.infer import items, onnxruntime, openvino
from loopworks.tasks import classes, detection, numbers, segmentation
from loopworks_edge import manifest, rows
from loopworks_edge.manifest import Manifest

if TYPE_CHECKING:  # who answers one file needs no engine
    from loopworks.infer.chains.linked import Linked
    from loopworks.infer.engine import Engine, Served

PARTS = (rules, row, text, onnxruntime, openvino, classes, detection, numbers, segmentation)
"""Runtimes and task kinds, which register themselves when they are imported, and the rules of all media."""
HOME = Path(__file__).parents[1]
"""The folder that holds this package: inside an edge bundle, the bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A checked edge bundle."""

    manifest: Manifest
    bundle: Bundle

    @property
    def media(self) -> str:
        """What an item is: image, text, row."""
        return self.bundle.rule.media

    def variant(self, name: str = "") -> str:
        """The variant called ``name``, or the one that answers by default; ``NotFound`` names those that are here."""
        chosen = name or self.manifest.variants[0]
        if chosen not in self.manifest.variants:
            raise NotFound("variant", chosen, self.manifest.variants)
        return chosen

    def load(self, variant: str = "", *, threads: int = 0) -> Predictor:
        """A predictor for packed tensors; ``threads`` 0 is one per core."""
        found = self.bundle.variant(self.variant(variant))
        return predictors.load(found, self.bundle.folder, self.bundle.rule, threads=threads)

    def size_bytes(self, variant: str) -> int:
        """Of a variant's files."""
        found = self.bundle.variant(variant)
        return sum(self.bundle.path(file).stat().st_size for file in {found.file, *found.files})

    def into(self, engine: "Engine", variant: str = "") -> "Served | Linked":
        """Load it into an engine, under its name."""
        about = self.manifest
        facts = {"model": about.model, "number": about.number}
        version = str(about.revision or about.number)
        return engine.load(about.name, self.bundle, variant=self.variant(variant), version=version, facts=facts)

    def predict(
        self, predictor: Predictor, asked: Sequence[items.Asked], *, batch: int = 32
    ) -> tuple[list[dict[str, Any]], list[Problem]]:
        """Answers for items (paths, bytes of images, texts, rows; a file of rows is many), and what cannot be read."""
        found, problems = self.read(asked)
        said, bad = items.answered(predictor, self.bundle, found, batch=batch, max_pixels=self.manifest.max_pixels)
        return [self.prediction(one, answer) for one, answer in said], problems + bad

    def read(self, asked: Sequence[items.Asked]) -> tuple[list[items.Loaded], list[Problem]]:
        """The items behind ``asked``."""
        found: list[items.Loaded] = []
        problems: list[Problem] = []
        for place, source in enumerate(asked, 1):
            name = str(source) if isinstance(source, Path) else f"{self.media} {place}"
            try:
                if self.media == "row" and isinstance(source, Path):
                    listed, bad = rows.read(source)
                    problems += bad
                    named = [(f"{name} row {i}", row_) for i, row_ in enumerate(listed, 1)]
                else:
                    named = [(name, source)]  # type: ignore[list-item]
                good, bad = items.load_each(named, self.media, self.manifest.max_pixels)
                found += good
                problems += bad
            except LoopworksError as error:
                problems.append(items.problem(error, name))
        return found, problems

    def prediction(self, one: items.Loaded, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer with the item that it is about."""
        return {"id": f"{self.manifest.ref}/{one.item}", "name": one.name, "item": one.item, **answer}


def open(folder: Path = HOME, key: str = "") -> Edge:
    """The edge bundle in ``folder``, all of it checked against its signature; ``key`` as for ``manifest.verify``.

    Raises: NotFound, Invalid, TooNew, Damaged: see ``manifest.verify``.
    """
    found = manifest.verify(folder, key)
    if found.is_chain:
        from loopworks_edge import chained

        return chained.open(folder, found)
    bundle = bundles.read(folder / manifest.MODEL, verify=False)
    for variant in found.variants:
        bundle.variant(variant)
    return Edge(manifest=found, bundle=bundle)
