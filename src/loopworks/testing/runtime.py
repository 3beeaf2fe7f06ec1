"""What a runtime promises."""

from pathlib import Path
from typing import Any, ClassVar

from loopworks.core.contracts import Predictor
from loopworks.core.errors import LoopworksError
from loopworks.testing.predictor import PredictorContract
from loopworks.testing.snapshot import difference, snapshot


class RuntimeContract(PredictorContract):
    """A runtime loads a model file into a predictor, reads it only, and refuses what is no model with one clear error.

    Set ``plugin`` (the class) and ``precision``; give ``model`` (writes a small model file) and ``batch``.
    """

    plugin: ClassVar[type[Any]]
    precision: ClassVar[str] = "fp32"
    threads: ClassVar[int] = 1

    def model(self, folder: Path) -> Path:
        """Write a small model into ``folder`` and return the file that the runtime opens."""
        raise NotImplementedError("give a model file")

    def predictor(self, folder: Path) -> Predictor:
        """The model, loaded."""
        path = self.model(folder)
        predictor: Predictor = self.plugin().load(path, threads=self.threads, precision=self.precision)
        return predictor

    def test_two_predictors_of_one_file_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        path = self.model(tmp_path)
        runtime = self.plugin()
        first = runtime.load(path, threads=self.threads, precision=self.precision)
        second = runtime.load(path, threads=self.threads, precision=self.precision)
        try:
            wanted = snapshot(first.predict(self.batch()))
            first.close()
            apart = difference(wanted, snapshot(second.predict(self.batch())))
            assert not apart, f"closing one predictor must leave the other as it was; it differs at {apart}"
        finally:
            second.close()

    def test_the_model_files_are_left_untouched(self, tmp_path: Path) -> None:
        path = self.model(tmp_path)
        before = snapshot(tmp_path)
        predictor = self.plugin().load(path, threads=self.threads, precision=self.precision)
        try:
            predictor.predict(self.batch())
        finally:
            predictor.close()
        apart = difference(before, snapshot(tmp_path))
        assert not apart, f"loading must not write beside the model; it changed {apart}"

    def test_a_file_that_is_no_model_is_refused(self, tmp_path: Path) -> None:
        path = self.model(tmp_path)
        path.write_bytes(b"this is not a model")
        self._refuses(path)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        self._refuses(self.model(tmp_path).with_name("missing" + self.model(tmp_path).suffix))

    def _refuses(self, path: Path) -> None:
        try:
            self.plugin().load(path, threads=self.threads, precision=self.precision)
        except LoopworksError as error:
            assert path.name in error.message, f"the error must name the file {path.name}; got {error.message}"
        else:
            raise AssertionError(f"{path.name} must be refused with a LoopworksError; it was loaded")
