"""What a task kind promises."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Sizes
from loopworks.core.errors import LoopworksError
from loopworks.core.values import LabelSchema, Shape


class TaskContract:
    """A task kind's functions agree with each other: labels, targets, tensors, answers and scores tell one story.

    Give ``task``, ``schema``, ``truth`` (labels of at least six items, in every form the task allows) and
    ``perfect`` (what a model that is always right would answer to them).
    """

    author: ClassVar[str] = "model-1"
    lower: ClassVar[frozenset[str]] = frozenset({"rmse", "mae", "log_loss"})
    """Metrics of which less is better: 0 for a perfect answer. All others are 1 then."""

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

    def sizes(self) -> Sizes:
        """Width and height of each item's image; by default items have no pictures."""
        return ()

    def strangers(self) -> Sequence[Shape]:
        """A label that the schema does not allow: by default of an unknown class."""
        return [Shape(label="no such class")]

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
            turned = task.check(list(reversed(shapes)), schema)
            assert sorted(turned) == sorted(once), "the order of shapes must not matter, or be kept"
            assert task.check([*shapes, *shapes], schema) == once, "saying a thing twice must not matter"

    def test_an_unknown_class_is_refused(self) -> None:
        stranger, sizes = self.strangers(), self.sizes()[:1]
        self._refuses(lambda: self.task().check(stranger, self.schema()), "check")
        self._refuses(lambda: self.task().targets([stranger], self.schema(), sizes), "targets")

    def test_targets_have_a_row_per_item(self) -> None:
        assert len(self._targets()) == len(self.truth()), "targets must have one row per item"

    def test_the_truth_can_be_taught(self) -> None:
        self.task().teachable(self._targets(), self.schema())

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
        proposals = self.task().labels(self.perfect(), self.schema(), self.author, self.sizes())
        assert len(proposals) == len(self.truth()), "there must be one proposal per item"
        for said, wanted in zip(proposals, self.truth(), strict=True):
            found = tuple(shape for shape, _ in said)
            assert all(0.0 <= how <= 1.0 for _, how in said), f"a confidence must be in 0..1; got {said}"
            assert [s.label for s in found] == [s.label for s in wanted], f"must propose {wanted}; got {found}"
            assert {s.source for s in found} <= {"model"}, "a proposal's source must be the model"
            assert {s.author for s in found} <= {self.author}, "a proposal must name the model"
            assert self.task().check(found, self.schema()) == found, "a proposal must be a canonical label"

    def test_decoded_answers_are_plain_json(self) -> None:
        import json

        found = self.task().decode(self.perfect(), self.schema(), self.sizes())
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
        assert self.task().headline in scores, f"metrics must hold the headline {self.task().headline}"
        assert self.task().headline not in self.lower, "of the headline more must be better"
        bad = {name: value for name, value in scores.items() if value != (0.0 if name in self.lower else 1.0)}
        assert not bad, f"a perfect answer must score 1.0 (0.0 where less is better); got {bad}"

    def test_metrics_are_numbers_and_at_most_1_where_more_is_better(self) -> None:
        for answer in (self.perfect(), self.unsure(), self._turned()):
            for name, value in self._score(answer).items():
                assert np.isfinite(value), f"{name} must be a finite number; got {value}"
                assert name in self.lower or value <= 1.0, f"{name} must be at most 1; got {value}"
                assert name not in self.lower or value >= 0.0, f"{name} must be at least 0; got {value}"

    def test_a_wrong_answer_scores_less(self) -> None:
        headline = self.task().headline
        assert self._score(self._turned())[headline] < 1.0, "an answer for other items must score below 1.0"

    def test_metrics_of_some_items_do_not_depend_on_the_others(self) -> None:
        at = np.arange(len(self.truth()) // 2)
        right, wrong = self.perfect(), self._turned()
        mixed = {name: np.concatenate([right[name][at], wrong[name][len(at) :]]) for name in right}
        some = {name: values[at] for name, values in mixed.items()}
        alone = self.task().metrics(self._targets()[at], some, self.schema())
        for name, metric in self.task().metrics(self._targets(), mixed, self.schema()).items():
            assert np.isclose(metric(at), alone[name](at)), f"{name} of some items must be what it is without the rest"

    def test_targets_of_other_items_are_refused(self) -> None:
        short = self._targets()[:1]
        self._refuses(lambda: self.task().metrics(short, self.perfect(), self.schema()), "metrics")

    def test_quality_is_in_0_to_1_and_highest_where_the_answer_is_right(self) -> None:
        right, wrong = (
            self.task().quality(self._targets(), answer, self.schema()) for answer in (self.perfect(), self._turned())
        )
        for found in (right, wrong):
            assert found.shape == (len(self.truth()),), f"must give one number per item; got shape {found.shape}"
            assert ((found >= 0) & (found <= 1)).all(), "quality must be in 0..1"
        assert wrong.mean() < right.mean(), "answers for other items must be of lower quality"

    def test_classes_are_judged_one_by_one(self) -> None:
        found = self.task().by_class(self._targets(), self.perfect(), self.schema())
        assert set(found) <= set(self.schema().classes), f"must judge the schema's classes; got {sorted(found)}"
        for name, values in found.items():
            assert next(iter(values.values())) == 1.0, f"{name} must be 1.0 for a perfect answer; got {values}"

    def test_features_are_a_row_per_item(self) -> None:
        found = self.task().features(self.perfect(), self.schema())
        assert found.dtype == np.float32, f"features must be float32; got {found.dtype}"
        assert found.ndim == 2, f"features must have two axes; got shape {found.shape}"
        assert len(found) == len(self.truth()), f"features must have one row per item; got shape {found.shape}"

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

    def _targets(self) -> NDArray[Any]:
        return self.task().targets(self.truth(), self.schema(), self.sizes())

    def _score(self, answer: Arrays) -> dict[str, float]:
        every = np.arange(len(self.truth()))
        found = self.task().metrics(self._targets(), answer, self.schema())
        return {name: metric(every) for name, metric in found.items()}

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
