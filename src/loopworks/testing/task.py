"""What a task kind promises."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import LoopworksError
from loopworks.core.values import LabelSchema, Shape
from loopworks.testing.snapshot import difference


class TaskContract:
    """A task kind's functions agree with each other: labels, targets, tensors, answers and scores tell one story.

    Give ``task``, ``schema``, ``truth`` (labels of at least six items, in every form the task allows) and
    ``perfect`` (what a model that is always right would answer to them).
    """

    author: ClassVar[str] = "model-1"

    def task(self) -> Learnable:
        """The task kind under test."""
        raise NotImplementedError("give the task kind")

    def schema(self) -> LabelSchema:
        """At least three classes."""
        raise NotImplementedError("give a label schema")

    def truth(self) -> Sequence[Sequence[Shape]]:
        """Labels of at least six items, in canonical form."""
        raise NotImplementedError("give the labels of some items")

    def perfect(self) -> Arrays:
        """The answer of a model that is right about every item of ``truth`` and sure of it."""
        raise NotImplementedError("give a perfect answer")

    def unsure(self) -> Arrays:
        """The answer of a model that knows nothing: by default the mean of the perfect answers for every item."""
        return {
            name: np.broadcast_to(x.mean(axis=0, keepdims=True), x.shape).astype(x.dtype)
            for name, x in self.perfect().items()
        }

    def test_check_is_canonical_and_idempotent(self) -> None:
        task, schema = self.task(), self.schema()
        for shapes in self.truth():
            once = task.check(shapes, schema)
            assert once == tuple(shapes), f"truth must be given in canonical form; check made {once} of {shapes}"
            assert task.check(once, schema) == once, "checking twice must change nothing"
            assert task.check(list(reversed(shapes)), schema) == once, "the order of shapes must not matter"
            assert task.check([*shapes, *shapes], schema) == once, "saying a thing twice must not matter"

    def test_an_unknown_class_is_refused(self) -> None:
        stranger = [Shape(label="no such class")]
        self._refuses(lambda: self.task().check(stranger, self.schema()), "check")
        self._refuses(lambda: self.task().targets([stranger], self.schema()), "targets")

    def test_targets_have_a_row_per_item(self) -> None:
        targets = self._targets()
        assert targets.dtype == np.float32, f"targets must be float32; got {targets.dtype}"
        assert len(targets) == len(self.truth()), "targets must have one row per item"
        assert targets.shape[1] == len(self.schema().classes), "targets must have one column per class"

    def test_perfect_answers_have_the_promised_tensors(self) -> None:
        found = {name: (str(x.dtype), x.shape[1:]) for name, x in self.perfect().items()}
        wanted = {
            spec.name: (_DTYPES.get(spec.datatype), spec.shape[1:]) for spec in self.task().outputs(self.schema())
        }
        assert set(found) == set(wanted), f"outputs must be {sorted(wanted)}; got {sorted(found)}"
        for name, (dtype, shape) in wanted.items():
            assert found[name][0] == dtype, f"{name} must be {dtype}; got {found[name][0]}"
            fits = len(shape) == len(found[name][1]) and all(
                a in (-1, b) for a, b in zip(shape, found[name][1], strict=True)
            )
            assert fits, f"{name} must have shape {shape} after the batch; got {found[name][1]}"

    def test_labels_of_perfect_answers_are_the_truth(self) -> None:
        proposals = self.task().labels(self.perfect(), self.schema(), self.author)
        assert len(proposals) == len(self.truth()), "there must be one proposal per item"
        for found, wanted in zip(proposals, self.truth(), strict=True):
            assert [s.label for s in found] == [s.label for s in wanted], f"must propose {wanted}; got {found}"
            assert {s.source for s in found} <= {"model"}, "a proposal's source must be the model"
            assert {s.author for s in found} <= {self.author}, "a proposal must name the model"
            assert self.task().check(found, self.schema()) == found, "a proposal must be a canonical label"

    def test_decoded_answers_are_plain_json(self) -> None:
        import json

        found = self.task().decode(self.perfect(), self.schema())
        assert len(found) == len(self.truth()), "there must be one decoded answer per item"
        assert json.loads(json.dumps(found, allow_nan=False)) == found, "a decoded answer must be plain JSON"

    def test_uncertainty_is_between_0_and_1_and_higher_where_nothing_is_known(self) -> None:
        sure = self.task().uncertainty(self.perfect(), self.schema())
        unsure = self.task().uncertainty(self.unsure(), self.schema())
        for found in (sure, unsure):
            assert found.shape == (len(self.truth()),), f"must give one number per item; got shape {found.shape}"
            assert found.dtype == np.float64, f"must be float64; got {found.dtype}"
            assert ((found >= 0) & (found <= 1)).all(), "uncertainty must be in 0..1"
        assert sure.max() <= unsure.min(), "a sure answer must not be more uncertain than one that knows nothing"
        assert sure.mean() < unsure.mean(), "a sure answer must be less uncertain than one that knows nothing"

    def test_a_perfect_answer_scores_1(self) -> None:
        scores = self._score(self.perfect())
        assert self.task().headline in scores, f"scores must hold the headline {self.task().headline}"
        bad = {name: score.value for name, score in scores.items() if score.value != 1.0}
        assert not bad, f"a perfect answer must score 1.0; got {bad}"

    def test_a_score_lies_in_its_interval_within_bounds(self) -> None:
        for answer in (self.perfect(), self.unsure(), self._turned()):
            for name, score in self._score(answer).items():
                assert 0.0 <= score.low <= score.value <= score.high <= 1.0, (
                    f"{name} must be in its interval; got {score}"
                )
                assert score.count == len(self.truth()), f"{name} must count the items; got {score.count}"

    def test_a_wrong_answer_scores_less(self) -> None:
        headline = self.task().headline
        assert self._score(self._turned())[headline].value < 1.0, "an answer for other items must score below 1.0"

    def test_the_same_seed_gives_the_same_scores(self) -> None:
        apart = difference(self._score(self._turned()), self._score(self._turned()))
        assert not apart, f"the same seed must give the same scores; they differ at {apart}"

    def test_targets_of_other_items_are_refused(self) -> None:
        short = self._targets()[:1]
        self._refuses(lambda: self.task().score(short, self.perfect(), self.schema()), "score")

    def test_agreement_is_1_with_itself_and_less_with_another(self) -> None:
        task, schema = self.task(), self.schema()
        assert task.agreement(self.perfect(), self.perfect(), schema) == 1.0, "an answer must agree with itself"
        apart = task.agreement(self.perfect(), self._turned(), schema)
        assert 0.0 <= apart < 1.0, f"agreement with another answer must be in 0..1 and below 1; got {apart}"
        assert apart == task.agreement(self._turned(), self.perfect(), schema), "agreement must not depend on the order"

    def test_a_picture_is_an_rgb_image(self) -> None:
        image = np.zeros((32, 48, 3), np.uint8)
        found = self.task().draw(image, self.truth()[0])
        assert found.ndim == 3, f"a drawing must be (height, width, 3); got {found.shape}"
        assert found.shape[2] == 3, f"a drawing must be (height, width, 3); got {found.shape}"
        assert found.dtype == np.uint8, f"a drawing must be uint8; got {found.dtype}"
        assert not image.any(), "drawing must leave the image as it was"

    def _targets(self) -> NDArray[np.float32]:
        return self.task().targets(self.truth(), self.schema())

    def _score(self, answer: Arrays) -> Any:
        return self.task().score(self._targets(), answer, self.schema(), seed=5)

    def _turned(self) -> Arrays:
        """The perfect answers, each given to the next item."""
        return {name: np.roll(x, 1, axis=0) for name, x in self.perfect().items()}

    def _refuses(self, call: Any, what: str) -> None:
        try:
            call()
        except LoopworksError:
            return
        except Exception as error:
            raise AssertionError(f"{what} must refuse with a LoopworksError; got {error!r}") from None
        raise AssertionError(f"{what} must refuse this with a LoopworksError; it was taken")


_DTYPES = {"FP32": "float32", "FP64": "float64", "INT64": "int64", "INT32": "int32", "UINT8": "uint8", "BOOL": "bool"}
