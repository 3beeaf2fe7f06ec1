"""Getting a model ready to answer: its files checked, its predictors made, tried at several batch sizes, and timed."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Failed, Invalid, LoopworksError
from loopworks.core.limits import Limits
from loopworks.core.row import RowRule
from loopworks.core.values import TensorSpec
from loopworks.infer import protocol
from loopworks.infer.forms import Form
from loopworks.infer.isolated import IsolatedPredictor
from loopworks.infer.light import LIGHT_S, SIZES, rows_within

WARM_S = 0.02
"""Time for runs of more than one row, which grow a runtime's memory before a user waits for it: small models alone, as
a net for images would hold 57 MB more for batches that are no quicker on a processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a served model works with."""

    predictors: list[Predictor]
    """One per worker; the same one where it may be shared."""
    light: Predictor | None
    """For runs in the caller's thread; ``None`` where the model is not quick enough."""
    light_rows: int
    memory_bytes: int
    device: str


def load(name: str, bundle: Bundle, variant: Variant, limits: Limits) -> Loaded:
    """Load a variant; whatever fails, nothing of it stays open.

    Raises: NotFound, Missing, Invalid, Damaged, Failed: it cannot be loaded, or is not what the bundle says.
    """
    bundles.check_variant(bundle, variant)
    before = _resident_bytes()
    made: list[Predictor] = []

    def fresh() -> Predictor:
        if limits.isolation == "process":
            made.append(IsolatedPredictor(bundle, variant, memory_mb=limits.memory_mb, device=limits.device))
        else:
            made.append(predictors.load(variant, bundle.folder, bundle.rule, threads=1, device=limits.device))
        _warm_up(name, bundle, made[-1], limits.max_batch)
        return made[-1]

    try:
        workers = [fresh()]
        is_shared = bool(getattr(workers[0], "is_shareable", False))
        for _ in range(max(1, limits.workers) - 1):
            workers.append(workers[0] if is_shared else fresh())
        light, rows = None, 0
        if limits.isolation == "none" and _is_plain(bundle) and (rows := _light_rows(bundle, workers[0])):
            light = workers[0] if is_shared else fresh()
    except BaseException:
        for predictor in made:
            predictor.close()
        raise
    grown = _resident_bytes() - before
    files = sum(bundle.path(file).stat().st_size for file in {variant.file, *variant.files})
    return Loaded(
        predictors=workers,
        light=light,
        light_rows=rows,
        memory_bytes=max(grown, files),
        device=str(getattr(workers[0], "device", "cpu")),
    )


def is_batched(bundle: Bundle) -> bool:
    """Whether all tensors have a free first axis."""
    return all(spec.shape[:1] == (-1,) for spec in (*bundle.inputs, *bundle.outputs))


def checked(name: str, bundle: Bundle, outputs: Arrays, size: int) -> Arrays:
    """The outputs that the bundle names, each with a row per input row.

    Raises: Invalid, Failed: one is missing, or has another number of rows.
    """
    for spec in bundle.outputs:
        if spec.name not in outputs:
            raise Invalid(f"outputs of model {name!r}", f"with {spec.name}", ", ".join(outputs) or "none")
        if spec.shape[:1] == (-1,) and outputs[spec.name].shape[:1] != (size,) and is_batched(bundle):
            given = list(outputs[spec.name].shape)
            raise Failed(f"output {spec.name} of model {name!r} must have {size} rows; got shape {given}")
    return {spec.name: outputs[spec.name] for spec in bundle.outputs}


def _warm_up(name: str, bundle: Bundle, predictor: Predictor, max_batch: int) -> None:
    """Answer rows of zeros, so that the first user does not wait and a wrong bundle never gets into use."""
    if any(-1 in spec.shape[1:] for spec in bundle.inputs):
        return  # which sizes are sensible, only the model knows
    began = time.perf_counter()
    outputs = _tried(name, bundle, predictor, 1)
    for spec in bundle.outputs:
        given = outputs[spec.name]
        if protocol.datatype_of(given) != spec.datatype or not protocol.fits(given.shape, spec):
            raise Invalid(
                f"output {spec.name} of model {name!r}",
                f"{spec.datatype} of shape {list(spec.shape)}",
                f"{given.dtype} of shape {list(given.shape)}",
            )
    if not is_batched(bundle):
        return
    per_row = time.perf_counter() - began
    for rows in sorted({min(8, max_batch), max_batch}):
        if rows > 1 and rows * per_row < WARM_S:
            _tried(name, bundle, predictor, rows)


def _tried(name: str, bundle: Bundle, predictor: Predictor, rows: int) -> Arrays:
    try:
        return checked(name, bundle, predictor.predict(_zeros(bundle, rows)), rows)
    except LoopworksError:
        raise
    except Exception as error:  # a runtime may raise anything
        raise Invalid(f"model {name!r}", "able to answer", str(error)) from None


def _is_plain(bundle: Bundle) -> bool:
    """Whether what a request takes is bounded by its rows: a text may be a thousand times as long as the one tried."""
    is_short = isinstance(bundle.rule, RowRule) and all(column.kind != "text" for column in bundle.rule.columns)
    is_short = is_short or all(spec.datatype != "BYTES" for spec in bundle.inputs)
    return is_short and is_batched(bundle) and Form.fits(bundle.inputs)


def _light_rows(bundle: Bundle, predictor: Predictor) -> int:
    given = {rows: _zeros(bundle, rows) for rows in SIZES}
    return rows_within(lambda rows: predictor.predict(given[rows]), LIGHT_S)


def _zeros(bundle: Bundle, rows: int) -> dict[str, Any]:
    return {spec.name: _zero(spec, rows) for spec in bundle.inputs}


def _zero(spec: TensorSpec, rows: int) -> Any:
    shape = [rows if i == 0 and size == -1 else 1 if size == -1 else size for i, size in enumerate(spec.shape)]
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, protocol.DTYPES[spec.datatype])


def _resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say it as Linux does, and a model counts as its files."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
