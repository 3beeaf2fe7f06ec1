"""Columns and points of items in a file of arrays; written whole or not at all, and read without pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.infer.watch.traits import Traits
from loopworks.store.blobs import write_error

Arrays = dict[str, NDArray[Any]]
TOLD = "told"
"""The array that holds what is JSON."""


def pack(found: Traits, part: str, arrays: Arrays) -> dict[str, Any]:
    """Put numbers and points among ``arrays``, under names that begin with ``part``; what is left is JSON."""
    for at, values in enumerate(found.numbers.values()):
        arrays[f"{part}-{at}"] = values
    if found.points is not None:
        arrays[f"{part}-points"] = found.points
    if found.marks is not None:
        arrays[f"{part}-marks"] = found.marks
    return {"numbers": list(found.numbers), "categories": {name: list(told) for name, told in found.categories.items()}}


def unpack(told: Mapping[str, Any], part: str, arrays: Mapping[str, Any]) -> Traits:
    """What ``pack`` put there."""
    numbers = {name: arrays[f"{part}-{at}"] for at, name in enumerate(told["numbers"])}
    return Traits(numbers, told["categories"], arrays.get(f"{part}-points"), arrays.get(f"{part}-marks"))


def write(path: Path, arrays: Arrays, told: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all.

    Raises: NoSpace, Denied.
    """
    everything: Mapping[str, Any] = {**arrays, TOLD: np.frombuffer(json.dumps(told).encode(), np.uint8)}
    temp = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("wb") as file:
            np.savez(file, **everything)
        temp.replace(path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        temp.unlink(missing_ok=True)
