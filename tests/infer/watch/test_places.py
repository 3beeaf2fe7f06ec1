"""Boxes and masks that were answered, judged by the labels that their images got later."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.infer.watch.conftest import kept

import loopworks as lw
from loopworks.core import bundle as bundles
from loopworks.core import mask
from loopworks.core.content import content_id
from loopworks.core.contracts import Recalled, learnable
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape
from loopworks.infer.watch import places, watched
from loopworks.infer.watch.judge import Seen
from loopworks.infer.watch.keeping import Chosen, Keeper
from loopworks.infer.watch.rules import parse
from loopworks.store import predictions

SCHEMA = LabelSchema(classes=("car", "face"))
SIZE = (80, 40)
DETECTION = learnable(plugins.get("task.object-detection"))
SEMANTIC = learnable(plugins.get("task.semantic-segmentation"))


def box(label: str, *points: float) -> Shape:
    return Shape(label=label, kind="box", points=(tuple(map(float, points)),))


def picture(seed: int) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 80, 3), np.uint8)).save(made, "PNG")
    return made.getvalue()


@pytest.fixture
def keeper(space: lw.Workspace, tmp_path: Path, colors: Any) -> Keeper:
    """Of a detector of cars and faces in use as ``streets``."""
    dataset = space.dataset("streets", task="object-detection", classes=SCHEMA.classes)
    bundle = dataclasses.replace(colors.write(tmp_path / "detector"), task="object-detection", schema=SCHEMA)
    bundle = bundles.write(bundle, bundle.folder)
    space.deploy(kept(space, bundle, "detector"), name="streets")
    return Keeper(
        home=space.home,
        deployment="streets",
        revision=1,
        model="detector:1",
        bundle=bundle,
        rules=parse({}),
        dataset=dataset,
    )


def capture(keeper: Keeper, seed: int, *said: Shape, why: str = "random") -> str:
    """Keep what the detector said of a picture; gives the item of its dataset."""
    content = picture(seed)
    seen = Seen(item=content_id(content), name="p", content=content, said=[(one, 0.9) for one in said], size=SIZE)
    assert keeper.keep([Chosen(seen, (why,))]).kept == 1
    return content_id(content)


def test_boxes_are_judged_by_what_people_drew_later(space: lw.Workspace, keeper: Keeper) -> None:
    dataset = space.dataset("streets")
    right, moved = box("car", 10, 10, 20, 20), box("car", 12, 10, 20, 20)
    hits = [capture(keeper, seed, right) for seed in (1, 2)]
    near = capture(keeper, 3, moved)  # overlap 18/22 = 0.818: seven of COCO's ten limits
    hard = capture(keeper, 4, box("face", 0, 0, 9, 9), why="uncertain")
    capture(keeper, 5, right)  # nobody has labelled it yet
    assert space.live_accuracy("streets")["measured"] is None
    dataset.label({hard: [right]}, author="ann")
    only_hard = space.live_accuracy("streets")["measured"]
    assert (only_hard["metric"], only_hard["value"], only_hard["source"]) == ("map", 0.0, places.CHOSEN)
    dataset.label({item: [right] for item in (*hits, near)}, author="ann")
    found = space.live_accuracy("streets")["measured"]
    assert (found["count"], found["source"]) == (3, places.FAIR)  # the hard one is no fair sample
    # Of three boxes equally sure: all right up to an overlap of 0.80, above that two right of three.
    assert found["more"]["map50"] == pytest.approx(1.0)
    assert found["more"]["map75"] == pytest.approx(1.0)
    assert 0.8 < found["value"] < 1.0
    assert found["low"] <= found["value"] <= found["high"]
    dataset.label({near: [moved]}, author="ann")
    assert space.live_accuracy("streets")["measured"]["value"] == pytest.approx(1.0)


def test_what_could_not_be_kept_is_not_taken_for_nothing_found(space: lw.Workspace, keeper: Keeper) -> None:
    seen_none, unkept = capture(keeper, 1), capture(keeper, 2, box("car", 0, 0, 9, 9))
    with space.home.catalog.begin() as tx:
        predictions.forget(tx, space.dataset("streets").id, [unkept])
    space.dataset("streets").label({seen_none: [], unkept: [box("car", 0, 0, 9, 9)]}, author="ann")
    assert watched.returned(space.home, "streets") == 2
    judged, _ = places.found(space.home, "streets", "detector:1")
    assert [(one.said, one.truth) for one in judged] == [([], ())]


def test_boxes_kept_give_the_metrics_that_the_model_had() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.random((6, 5, 2)) * 0.5, 0.1 + rng.random((6, 5, 2)) * 0.4], axis=2).astype(np.float32)
    outputs: dict[str, np.ndarray[Any, Any]] = {
        "boxes": boxes,
        "scores": np.sort(0.5 + rng.random((6, 5)) / 2)[:, ::-1].astype(np.float32),
        "classes": rng.integers(0, 2, (6, 5)),
    }
    sizes = [SIZE] * 6
    moved = np.clip(boxes + rng.normal(0, 0.02, boxes.shape), 0.0, 1.0).astype(np.float32)
    near: dict[str, np.ndarray[Any, Any]] = {**outputs, "boxes": moved}
    truth = [[shape for shape, _ in said] for said in DETECTION.labels(near, SCHEMA, "", sizes)]
    targets = DETECTION.targets(truth, SCHEMA, sizes)
    _same(DETECTION, targets, outputs, sizes)


def test_masks_kept_give_the_metrics_that_the_model_had() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(np.array([0, 1, 255], np.uint8), (4, 40, 80))
    real = np.where(rng.random(classes.shape) < 0.2, np.roll(classes, 1, axis=2), classes)
    truth = [
        [
            Shape(label=name, kind="mask", points=((40.0, 80.0),), mask=mask.encode(one == i))
            for i, name in enumerate(SCHEMA.classes)
        ]
        for one in real
    ]
    sizes = [SIZE] * 4
    outputs = {"classes": classes, "sure": np.full((4, 40, 80), 0.8, np.float32)}
    _same(SEMANTIC, SEMANTIC.targets(truth, SCHEMA, sizes), outputs, sizes)


def _same(task: Any, targets: Any, outputs: Any, sizes: list[tuple[int, int]]) -> None:
    assert isinstance(task, Recalled)
    said = task.labels(outputs, SCHEMA, "m:1", sizes)  # type: ignore[attr-defined]
    again = task.recall(said, SCHEMA, sizes)
    every = np.arange(len(sizes))
    before, after = (task.metrics(targets, one, SCHEMA) for one in (outputs, again))  # type: ignore[attr-defined]
    assert set(before) == set(after)
    for name, metric in before.items():
        assert 0.05 < metric(every) < 0.99, name
        assert after[name](every) == pytest.approx(metric(every), abs=1e-4), name


def test_a_task_of_labels_alone_is_not_judged_by_places(space: lw.Workspace) -> None:
    assert places.measured([], DETECTION, SCHEMA, "") is None
    one = places.Judged([], [], SIZE)
    assert places.measured([one], learnable(plugins.get("task.image-classification")), SCHEMA, "") is None
    assert space.live_accuracy("colors")["measured"] is None
