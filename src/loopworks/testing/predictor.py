"""What a predictor promises."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Predictor
from loopworks.testing.snapshot import difference, snapshot


class PredictorContract:
    """A batch of n gives n answers that depend on their own row alone and never change.

    Give ``predictor`` (a fresh one at every call) and ``batch`` (at least four different rows).
    """

    tolerance: ClassVar[float] = 1e-5
    """Largest absolute difference between a row's answer alone and in a batch: kernels sum in other orders."""

    def predictor(self, folder: Path) -> Predictor:
        """A fresh predictor; ``folder`` is empty and the test's own."""
        raise NotImplementedError("give the predictor")

    def batch(self) -> Mapping[str, NDArray[Any]]:
        """At least four different rows for every input."""
        raise NotImplementedError("give a batch")

    def test_a_batch_of_n_gives_n_answers(self, tmp_path: Path) -> None:
        batch = self.batch()
        predictor = self.predictor(tmp_path)
        try:
            for count in (1, 2, _rows(batch)):
                found = predictor.predict(_part(batch, 0, count))
                assert found, "a predictor must give at least one output"
                lengths = {name: len(answer) for name, answer in found.items() if len(answer) != count}
                assert not lengths, f"{count} rows must give {count} answers; got {lengths}"
        finally:
            predictor.close()

    def test_the_same_input_gives_the_same_output(self, tmp_path: Path) -> None:
        batch = self.batch()
        predictor = self.predictor(tmp_path)
        try:
            first = predictor.predict(batch)
            kept = snapshot(first)
            other = _part(batch, 1, _rows(batch))
            predictor.predict(other)
            apart = difference(kept, snapshot(first))
            assert not apart, f"a later call must not change an earlier answer; it changed at {apart}"
            apart = difference(first, predictor.predict(batch))
            assert not apart, f"the same input must give the same output; it differs at {apart}"
        finally:
            predictor.close()

    def test_rows_together_are_rows_alone(self, tmp_path: Path) -> None:
        batch = self.batch()
        assert _rows(batch) >= 4, "give at least four rows"
        predictor = self.predictor(tmp_path)
        try:
            together = {name: np.asarray(answer) for name, answer in predictor.predict(batch).items()}
            for row in range(_rows(batch)):
                alone = predictor.predict(_part(batch, row, row + 1))
                assert set(alone) == set(together), "one row must give the same outputs as many"
                for name, answer in together.items():
                    _assert_close(np.asarray(alone[name])[0], answer[row], self.tolerance, f"{name}[{row}]")
        finally:
            predictor.close()

    def test_input_is_left_untouched(self, tmp_path: Path) -> None:
        batch = self.batch()
        before = snapshot(batch)
        predictor = self.predictor(tmp_path)
        try:
            predictor.predict(batch)
        finally:
            predictor.close()
        apart = difference(before, snapshot(batch))
        assert not apart, f"the input must stay as it was; it changed at {apart}"

    def test_read_only_input_is_fine(self, tmp_path: Path) -> None:
        batch = {name: rows.copy() for name, rows in self.batch().items()}
        for rows in batch.values():
            rows.flags.writeable = False
        predictor = self.predictor(tmp_path)
        try:
            predictor.predict(batch)
        finally:
            predictor.close()

    def test_closing_twice_is_harmless(self, tmp_path: Path) -> None:
        predictor = self.predictor(tmp_path)
        predictor.predict(self.batch())
        predictor.close()
        predictor.close()


def _rows(batch: Mapping[str, NDArray[Any]]) -> int:
    return min(len(rows) for rows in batch.values())


def _part(batch: Mapping[str, NDArray[Any]], start: int, end: int) -> dict[str, NDArray[Any]]:
    return {name: rows[start:end] for name, rows in batch.items()}


def _assert_close(left: NDArray[Any], right: NDArray[Any], tolerance: float, what: str) -> None:
    assert left.shape == right.shape, f"{what} must have shape {right.shape} alone too; got {left.shape}"
    if left.dtype.kind not in "fc":
        assert (left == right).all(), f"{what} must be the same alone and in a batch"
        return
    gap = float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0.0))
    assert gap <= tolerance, f"{what} must be the same alone and in a batch, within {tolerance}; they differ by {gap}"
