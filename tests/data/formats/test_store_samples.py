"""Real data sets through a workspace: it holds what others read in them, and exports what came in."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests.data.formats.passage import SHARED, differences, draw

import loopworks
from loopworks.core.values import Shape
from loopworks.data.stage import Dataset
from loopworks.workspace import Workspace

FORMATS = SHARED / "annotation-formats"
SPLITS = {"training": "train", "validation": "val", "default": "", "subset1": ""}
OWN = {
    "cityscapes_dataset/dataset": "cityscapes",
    "coco_dataset/coco_captions": "coco",
    "coco_dataset/coco_instances": "coco",
    "coco_dataset/coco_panoptic": "coco",
    "cvat_dataset/for_images/export_task": "cvat",
    "datumaro_dataset/legacy": "datumaro",
    "kitti_dataset/kitti_detection": "kitti",
    "voc_dataset/voc_dataset1": "voc",
    "yolo_dataset/annotations": "yolo",
    "yolo_dataset/strict": "yolo",
}
BRIDGED = {
    "labelme_dataset": "label_me",
    "mnist_dataset": "mnist",
    "mot_dataset/mot_seq_with_seqinfo": "mot_seq",
    "open_images_dataset/v6": "open_images",
    "widerface_dataset": "wider_face",
}
TURNS = [
    *((f"annotation-formats/{place}", name) for place, name in OWN.items()),
    ("labelme-examples/bbox_detection/data_annotated", "labelme"),
    ("labelme-examples/classification/data_annotated", "labelme"),
    ("labelme-examples/instance_segmentation/data_annotated", "labelme"),
    ("labelme-examples/video_annotation/data_annotated", "labelme"),
    ("labelme-examples/primitives", "labelme"),
    ("labelme-examples/bbox_detection/data_dataset_voc", "voc"),
    ("labelme-examples/instance_segmentation/data_dataset_coco", "coco"),
    ("label-studio-exports/export_json_min", "label-studio"),
    ("label-studio-exports/export_yolo", "label-studio"),
    ("unity-solo/solo", "solo"),
    ("bccd", "voc"),
    ("traffic-lights", "voc"),
    ("camvid", "color-masks"),
]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with loopworks.open(tmp_path_factory.mktemp("space")) as opened:
        yield opened


def expected(place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FORMATS / "expected.json").read_text(encoding="utf-8"))["cases"][place]
    return found


def boxes(dataset: Dataset) -> Counter[str]:
    """Every box: of a shape, said beside its polygon or mask, or of a part."""
    found = []
    for item in dataset.items():
        for shape in item.labels:
            box = shape.facts.get("bbox") or (shape.bounds if shape.kind in ("box", "polygon", "mask") else None)
            if box:
                found.append((Path(item.name).stem, shape.label, [round(x, 3) + 0.0 for x in box]))
            for part in shape.facts.get("parts", []):
                found.append((Path(item.name).stem, part["name"], part["bbox"]))
    return Counter(map(str, found))


@pytest.mark.shared
@pytest.mark.parametrize("place", OWN)
def test_the_store_holds_what_datumaro_reads(space: Workspace, place: str) -> None:
    wanted, name = expected(place), f"read-{Path(place).name}-{len(place)}"
    report = space.add(name, FORMATS / place)
    dataset = space.dataset(name)
    items = dataset.items()
    assert report.formats == (OWN[place],)
    assert len(items) == wanted["items"]
    assert Counter(item.split for item in items) == {SPLITS.get(k, k): n for k, n in wanted["subsets"].items()}
    kinds = Counter({"box": "bbox", "class": "label"}.get(s.kind, s.kind) for i in items for s in i.labels)
    if OWN[place] == "coco":  # Datumaro says the box of a polygon or mask once more
        kinds["bbox"] = sum(shape.kind in ("box", "polygon", "mask") for i in items for shape in i.labels)
        kinds["bbox"] *= "instances" in place
    told = Counter(wanted["annotations"])
    if OWN[place] == "voc":  # one of its boxes is a part, a fact of its shape
        kinds["bbox"] += sum(len(s.facts.get("parts", [])) for i in items for s in i.labels)
        # Datumaro lists classes of whole pictures beside the objects; we take them where there are no objects, so
        # their number says nothing of ours and is not compared.
        del kinds["label"], told["label"]
    assert +kinds == +told
    if wanted["boxes"]:
        rows = [(item, label or "", [round(x, 3) + 0.0 for x in box]) for item, _, *box, label in wanted["boxes"]]
        assert boxes(dataset) & Counter(map(str, rows)) == Counter(map(str, rows))
    if OWN[place] not in ("coco", "voc"):
        used = Counter(shape.label for item in items for shape in item.labels if shape.label)
        assert used == wanted["labels_used"]
    if OWN[place] != "voc":
        assert list(dataset.schema.classes) == wanted["categories"]
    else:
        assert set(wanted["labels_used"]) - {"head"} <= set(dataset.schema.classes)


@pytest.mark.shared
def test_folders_of_imagenet_give_every_picture_its_class(space: Workspace) -> None:
    wanted = expected("imagenet_dataset")
    report = space.add("imagenet", FORMATS / "imagenet_dataset", is_multi=True)
    assert report.added + report.known == wanted["items"]  # its pictures are all white: two sizes, two items
    used = Counter(shape.label for item in space.dataset("imagenet").items() for shape in item.labels)
    assert set(used) == {"label_0", "label_1"}  # what is deeper belongs to its class


@pytest.mark.shared
@pytest.mark.formats
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", BRIDGED)
def test_the_store_holds_what_datumaro_reads_over_the_bridge(space: Workspace, place: str) -> None:
    pytest.importorskip("datumaro", reason="needs the [formats] extra")
    wanted, name = expected(place), f"bridge-{BRIDGED[place]}"
    space.add(
        name, FORMATS / place, task="object-detection", format="datumaro-bridge", options={"kind": BRIDGED[place]}
    )
    items = space.dataset(name).items()
    missing = BRIDGED[place] == "mot_seq"  # its sample comes without the frame that it names
    assert len(items) == (0 if missing else wanted["items"])
    if missing:
        return
    kinds = Counter({"box": "bbox", "class": "label"}.get(s.kind, s.kind) for i in items for s in i.labels)
    assert kinds == wanted["annotations"]
    rows = [(item, label or "", [round(x, 3) + 0.0 for x in box]) for item, _, *box, label in wanted["boxes"]]
    assert boxes(space.dataset(name)) & Counter(map(str, rows)) == Counter(map(str, rows))


@pytest.mark.shared
@pytest.mark.parametrize(("place", "name"), TURNS, ids=[place for place, _ in TURNS])
def test_an_export_gives_the_files_back(space: Workspace, tmp_path: Path, place: str, name: str) -> None:
    source = with_images(SHARED / place, tmp_path / "in") if name == "label-studio" else SHARED / place
    task = "image-classification" if "classification" in place or "legacy" in place else "object-detection"
    first = space.dataset(f"turn-{place.replace('/', '-')}", task=task, is_multi="legacy" in place)
    first.add(source, format=name)
    assert first.items()
    first.export(tmp_path / "live", format=name)
    assert [line for line in differences(source, tmp_path / "live") if not any(one in line for one in BESIDE)] == []
    first.freeze("as it came").export(tmp_path / "frozen", format=name)
    again = space.dataset(f"again-{place.replace('/', '-')}", task=task, is_multi="legacy" in place)
    again.add(tmp_path / "frozen", format=name)
    assert again.schema.classes == first.schema.classes
    labeled = {item.name for item in first.items(state="labeled")}
    has_splits = name not in ("labelme", "solo")  # freezing split what had no split, and these cannot say it
    assert said(again, labeled, has_splits) == said(first, labeled, has_splits)


BESIDE = ("camera.instance segmentation.png is only", "camera.semantic segmentation.png is only")
"""Pictures that belong to annotations of types that nothing knows."""


def said(dataset: Dataset, names: set[str], has_splits: bool) -> dict[str, Any]:
    """What a data set says of some items: name -> split, attributes and shapes."""

    def plain(shape: Shape) -> tuple[Any, ...]:
        return shape.label, shape.kind, shape.points, shape.mask, shape.attributes

    return {
        item.name: (item.split if has_splits else "", item.attributes, list(map(plain, item.labels)))
        for item in dataset.items()
        if item.name in names
    }


def with_images(source: Path, folder: Path) -> Path:
    """Label Studio's exports come without images: such of the size that they name are drawn."""
    shutil.copytree(source, folder)
    for path in sorted(folder.glob("*.json")):
        for task in json.loads(path.read_text(encoding="utf-8")):
            given = next(value for key, value in _texts(task) if key in ("image", "humans"))
            sizes = [row for key, row in _texts(task) if key in ("original_width", "original_height")]
            place = draw(folder / "images" / "drawn.png", (sizes[0], sizes[1]))
            place.rename(place.with_name(unquote(given.split("/")[-1].split("?")[0])))
    return folder


def _texts(body: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(body, dict):
        for key, one in body.items():
            yield from _texts(one, key)
    elif isinstance(body, list):
        for one in body:
            yield from _texts(one, name)
    else:
        yield name, body
