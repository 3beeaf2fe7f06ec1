"""Answers in the forms that other tools read."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as theirs

import loopworks.builtins  # noqa: F401 - registers the task kinds
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.data.formats.color_map import color
from loopworks.infer import shown
from loopworks.infer.local import Loaded
from loopworks.server import accepted


def said(task: str, outputs: Arrays, items: int = 1) -> shown.Said:
    """What a model of the classes can and bag says of white images of 40 x 20."""
    bundle = Bundle(
        task=task,
        schema=LabelSchema(classes=("can", "bag")),
        rule=ImageRule(height=8, width=8),
        inputs=(),
        outputs=(),
        version="",
        recipe="",
        variants=(),
        chosen="",
    )
    out = io.BytesIO()
    Image.new("RGB", (40, 20), "white").save(out, "PNG")
    found: Learnable = plugins.get(f"task.{task}")
    loaded = [Loaded(name=f"{i}.png", item=str(i), content=out.getvalue(), size=(40, 20)) for i in range(items)]
    values = found.decode(outputs, bundle.schema, [(40, 20)] * items)
    return shown.Said(bundle=bundle, author="litter:1", items=loaded, outputs=outputs, values=values)


@pytest.fixture
def boxes() -> shown.Said:
    """Of two images: a bag at the left of the first, nothing in the second."""
    outputs: Arrays = {
        "boxes": np.array([[[0.1, 0.2, 0.25, 0.5]], [[0, 0, 1, 1]]], np.float32),
        "scores": np.array([[0.75], [0.0]], np.float32),
        "classes": np.array([[1], [0]], np.int64),
    }
    return said("object-detection", outputs, 2)


@pytest.fixture
def masks() -> shown.Said:
    """A can in the upper left quarter; nothing elsewhere."""
    classes = np.full((1, 4, 4), 255, np.uint8)
    classes[0, :2, :2] = 0
    return said("semantic-segmentation", {"classes": classes, "sure": np.full((1, 4, 4), 0.5, np.float32)})


@pytest.fixture
def classes() -> shown.Said:
    return said("image-classification", {"scores": np.array([[0.25, 0.75]], np.float32)})


def test_boxes_as_coco(boxes: shown.Said) -> None:
    found = json.loads(shown.coco(boxes))
    assert [(i["file_name"], i["width"], i["height"]) for i in found["images"]] == [
        ("0.png", 40, 20),
        ("1.png", 40, 20),
    ]
    assert found["categories"] == [{"id": 1, "name": "can"}, {"id": 2, "name": "bag"}]
    (one,) = found["annotations"]
    assert (one["image_id"], one["category_id"], one["score"]) == (1, 2, 0.75)
    assert one["bbox"] == pytest.approx([4, 4, 10, 10], abs=1e-4)
    assert one["area"] == pytest.approx(100, abs=0.01)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_masks_as_coco_are_read_by_its_own_library(masks: shown.Said) -> None:
    (one,) = json.loads(shown.coco(masks))["annotations"]
    pixels = theirs.decode(one["segmentation"])
    expected = np.zeros((20, 40), np.uint8)
    expected[:10, :20] = 1
    np.testing.assert_array_equal(pixels, expected)
    assert one["bbox"] == [0, 0, 20, 10] == theirs.toBbox(one["segmentation"]).tolist()
    assert one["area"] == 200


def test_boxes_as_geojson_are_closed_rings(boxes: shown.Said) -> None:
    found = json.loads(shown.geojson(boxes))
    assert found["type"] == "FeatureCollection"
    (one,) = found["features"]
    assert one["properties"] == {"label": "bag", "score": 0.75, "image": "0.png"}
    (ring,) = one["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    np.testing.assert_allclose(ring, [[4, 4], [14, 4], [14, 14], [4, 14], [4, 4]], atol=1e-4)


def rows(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode())))


def test_csv_has_a_line_per_answer(boxes: shown.Said, masks: shown.Said, classes: shown.Said) -> None:
    assert rows(shown.table(classes)) == [{"item": "0.png", "label": "bag", "score": "0.75"}]
    (box,) = rows(shown.table(boxes))
    assert (box["item"], box["label"]) == ("0.png", "bag")
    assert float(box["width"]) == pytest.approx(10)
    assert rows(shown.table(masks)) == [{"item": "0.png", "label": "can", "score": "0.5", "share": "0.25"}]
    number = replace(classes, values=[{"value": 2.5}])
    assert rows(shown.table(number)) == [{"item": "0.png", "value": "2.5"}]
    assert shown.table(replace(classes, values=[{"chosen": [], "labels": []}])) == b"item,label,score\r\n"


def test_a_mask_is_a_png_of_class_numbers_with_the_colours_of_pascal_voc(masks: shown.Said) -> None:
    with Image.open(io.BytesIO(shown.mask_png(masks))) as picture:
        assert (picture.mode, picture.size) == ("P", (40, 20))
        pixels = np.asarray(picture)
        assert tuple(picture.getpalette() or ())[:9] == (*color(0), *color(1), *color(2))
    assert pixels[:10, :20].tolist() == [[1] * 20] * 10
    assert pixels.sum() == 200


def test_a_picture_is_drawn_into(boxes: shown.Said, masks: shown.Said, classes: shown.Said) -> None:
    lone = replace(boxes, items=boxes.items[:1], outputs={k: v[:1] for k, v in boxes.outputs.items()})
    for one in (lone, masks, classes):
        with Image.open(io.BytesIO(shown.picture_jpeg(one))) as picture:
            assert (picture.format, picture.width) == ("JPEG", 320)  # a tiny picture is drawn larger
            assert np.asarray(picture).min() < 200


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (shown.coco, "one for places in images"),
        (shown.geojson, "one for places in images"),
        (shown.mask_png, "image/png, which is masks"),
    ],
)
def test_a_form_that_the_task_does_not_have_is_refused(classes: shown.Said, form: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        form(classes)


def test_pictures_are_of_one_image_and_geojson_of_boxes(boxes: shown.Said, masks: shown.Said) -> None:
    for form in (shown.mask_png, shown.picture_jpeg):
        with pytest.raises(Invalid, match="must be one image; got 2 items of media image"):
            form(boxes)
    with pytest.raises(Invalid, match="a form that has masks"):
        shown.geojson(masks)


OFFERED = ("application/json", "application/geo+json", "image/jpeg", "image/png")


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/*", "image/jpeg"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("image/png;q=0.5, application/geo+json", "application/geo+json"),
        ("image/jpeg;q=0, image/*", "image/png"),
        ("application/json; charset=utf-8", "application/json"),
    ],
)
def test_accept_chooses(header: str, chosen: str) -> None:
    assert accepted.choose(header, OFFERED) == chosen


@pytest.mark.parametrize("header", ["image/webp", "text/*", "image/png;q=0", "image/png;q=much"])
def test_what_cannot_be_accepted_is_said(header: str) -> None:
    with pytest.raises(Invalid, match="Accept must be"):
        accepted.choose(header, OFFERED)
