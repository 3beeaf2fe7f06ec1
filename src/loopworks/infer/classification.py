"""The classification extension of the inference protocol: an output's largest values with the names of their classes.

Source: Triton's "classification" extension.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid


def best(array: NDArray[Any], top: int, classes: Sequence[str], name: str) -> NDArray[Any]:
    """Per row the ``top`` largest values as ``value:index:class``, largest first."""
    if array.dtype.kind not in "fiu" or array.ndim < 1:
        raise Invalid(f"output {name} classification", "asked of an output of numbers", str(array.dtype))
    rows = array.reshape(-1, array.shape[-1])
    is_whole = rows.dtype.kind in "iu"
    # Whole numbers are turned upside down by their bits: as doubles the largest ones would all be equal.
    order = np.argsort(~rows if is_whole else -rows.astype(np.float64), axis=-1, kind="stable")[:, :top]
    named = len(classes) == rows.shape[-1]
    found = np.empty(order.shape, dtype=object)
    for row, picks in enumerate(order.tolist()):
        for place, i in enumerate(picks):
            label = f":{classes[i]}" if named else ""
            value = f"{rows[row, i]:d}" if is_whole else f"{rows[row, i]:f}"
            found[row, place] = f"{value}:{i}{label}".encode()
    return found.reshape(*array.shape[:-1], order.shape[-1])
