"""Checks of a real dataset: planted faults are found, fixed by one call, and every fix can be undone."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import loopworks as lw
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.values import Shape
from loopworks.data.stage import Dataset


def draw(seed: int, size: int = 96) -> Image.Image:
    small = np.random.default_rng(seed).integers(30, 226, (9, 9, 3), np.uint8)
    image = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(seed + 1000).normal(0, 12, (size, size, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def space(tmp_path: Path, catalog_url: str) -> Iterator[lw.Workspace]:
    with lw.open(tmp_path / "space", catalog=catalog_url) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (target := tmp_path / "photos").mkdir()
    for number in range(12):
        draw(number).save(target / f"{number:02}.png")
    return target


@pytest.fixture
def photos(space: lw.Workspace, folder: Path) -> Dataset:
    dataset = space.dataset("photos", task="object-detection", classes=("car", "bus"))
    dataset.add(folder, labels="none")
    return dataset


def ids(dataset: Dataset) -> dict[str, str]:
    return {item.name: item.id for item in dataset.items()}


def test_wrong_classes_of_many_are_found_and_put_right(space: lw.Workspace, tmp_path: Path) -> None:
    (folder := tmp_path / "rooms").mkdir()
    truth: dict[str, set[str]] = {}
    for number in range(90):
        pixels = np.random.default_rng(number).integers(90, 140, (64, 64, 3), np.uint8)
        truth[f"{number:02}.png"] = {name for name, bit in (("sky", 1), ("grass", 2)) if number % 4 & bit}
        if number % 4 & 1:
            pixels[:24] = pixels[:24] // 3 + (0, 60, 160)
        if number % 4 & 2:
            pixels[40:] = pixels[40:] // 3 + (0, 140, 0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    rooms = space.dataset("rooms", task="image-classification", classes=("sky", "grass", "lamp"), is_multi=True)
    rooms.add(folder, labels="none")
    names = {item.id: item.name for item in rooms.items()}
    said = {key: set(truth[name]) for key, name in names.items()}
    lacking = next(key for key, name in names.items() if name == "07.png")
    bearing = next(key for key, name in names.items() if name == "14.png")
    both = next(key for key, name in names.items() if name == "41.png")
    said[lacking] -= {"sky"}
    said[bearing] |= {"sky"}
    said[both] = {"grass"}  # it shows the sky, and no grass
    rooms.label({key: sorted(classes) for key, classes in said.items()}, author="ann")
    found = {one.items[0]: one for one in rooms.clean.check("labels").findings}
    assert set(found) == {lacking, bearing, both}
    facts = {key: (one.detail["facts"]["lacks"], one.detail["facts"]["bears"]) for key, one in found.items()}
    assert facts == {lacking: (["sky"], []), bearing: ([], ["sky"]), both: (["sky"], ["grass"])}
    assert found[both].message == "41.png is labelled grass and probably is sky too and is not grass"
    operations = [rooms.clean.fix(one.id, author="bob").op for one in found.values()]
    assert {names[i.id]: {s.label for s in i.labels} for i in rooms.items()} == truth
    for operation in operations:
        rooms.undo(operation)
    assert {i.id: {s.label for s in i.labels} for i in rooms.items()} == said


def test_a_clean_dataset_has_no_findings(photos: Dataset) -> None:
    report = photos.clean.check()
    assert report.to_json()["findings"] == []
    assert report.items == 12
    assert {"near-duplicates", "leakage", "boxes", "broken", "dark"} <= set(report.checks)


def test_a_near_duplicate_is_found_once_deleted_and_brought_back(photos: Dataset, folder: Path) -> None:
    draw(3).save(folder / "copy.jpg", quality=80)
    photos.add(folder, labels="none")
    first = photos.clean.check("near-duplicates")
    (found,) = photos.clean.check("near-duplicates").findings
    assert [one.id for one in first.findings] == [found.id]
    names = ids(photos)
    assert set(found.items) == {names["03.png"], names["copy.jpg"]}
    fixed = photos.clean.fix(found.id[:12], author="ann")
    assert fixed.state == "fixed"
    assert len(photos.items()) == 12
    assert photos.operations()[0].author == "ann"
    assert photos.clean.check("near-duplicates").findings == ()
    photos.undo(fixed.op)
    assert len(photos.items()) == 13
    assert [one.id for one in photos.clean.findings()] == [found.id]


def test_of_copies_the_one_in_the_test_set_stays(photos: Dataset, folder: Path) -> None:
    draw(3).save(folder / "copy.jpg", quality=80)
    photos.add(folder, labels="none")
    names = ids(photos)
    photos.assign([names["copy.jpg"]], "test")
    (found,) = photos.clean.check("near-duplicates").findings
    assert found.detail["fix"]["drop"] == [names["03.png"]]


def test_leaking_copies_go_to_the_test_set_and_never_out_of_it(photos: Dataset, folder: Path) -> None:
    draw(3).save(folder / "copy.jpg", quality=80)
    photos.add(folder, labels="none")
    names = ids(photos)
    photos.assign([names["copy.jpg"]], "test")
    photos.assign([names["03.png"]], "train")
    (found,) = photos.clean.check("leakage").findings
    fixed = photos.clean.fix(found.id)
    assert {photos.item(one).split for one in found.items} == {"test"}
    with pytest.raises(Conflict, match="test set must stay"):
        photos.undo(fixed.op)
    photos.undo(fixed.op, force=True)
    assert photos.item(names["03.png"]).split == "train"


def test_an_ignored_finding_stays_ignored(photos: Dataset, folder: Path) -> None:
    draw(3).save(folder / "copy.jpg", quality=80)
    photos.add(folder, labels="none")
    (found,) = photos.clean.check("near-duplicates").findings
    photos.clean.ignore(found.id)
    again = photos.clean.check("near-duplicates")
    assert (again.findings, again.ignored) == ((), 1)
    assert photos.clean.ignore(found.id, is_ignored=False).state == "open"


def test_dark_bright_blank_blurred_tiny_and_odd_images_are_tagged(photos: Dataset, folder: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 20, (96, 96, 3), np.uint8)).save(folder / "dark.png")
    Image.fromarray(rng.integers(240, 256, (96, 96, 3), np.uint8)).save(folder / "bright.png")
    Image.new("RGB", (96, 96), (120, 90, 60)).save(folder / "blank.png")
    soft = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    soft.save(folder / "blurred.png")
    draw(70, 10).save(folder / "tiny.png")
    draw(71, 96).resize((480, 60)).save(folder / "odd-shape.png")
    photos.add(folder, labels="none")
    kinds = ("dark", "bright", "blank", "blurred", "tiny", "odd-shape")
    report = photos.clean.check(*kinds)
    names = {one: name for name, one in ids(photos).items()}
    found = {(one.kind, names[one.items[0]].partition(".")[0]) for one in report.findings}
    assert {(kind, kind) for kind in kinds} <= found
    assert not {name for _, name in found} & {f"{number:02}" for number in range(12)}
    dark = next(one for one in report.findings if one.kind == "dark")
    fixed = photos.clean.fix(dark.id)
    assert photos.item(dark.items[0]).tags == ("dark",)
    photos.undo(fixed.op)
    assert photos.item(dark.items[0]).tags == ()


def test_a_file_by_reference_that_changed_or_went_is_broken(space: lw.Workspace, folder: Path) -> None:
    dataset = space.dataset("linked", task="object-detection", classes=("car",))
    dataset.add(folder, labels="none", by="reference")
    (folder / "01.png").unlink()
    (folder / "02.png").write_bytes(b"something else")
    report = dataset.clean.check("broken")
    assert len(report.findings) == len(report.problems) == 2
    fixed = [dataset.clean.fix(one.id) for one in report.findings]
    assert len(dataset.items()) == 10
    assert dataset.clean.check("broken").findings == ()
    for one in fixed:
        dataset.undo(one.op)
    assert len(dataset.items()) == 12


def test_faulty_boxes_are_clipped_or_dropped_and_come_back(photos: Dataset) -> None:
    item = photos.items()[0]

    def box(*row: float) -> Shape:
        return Shape(label="car", kind="box", points=(row,), author="ann")

    said = (box(80, 10, 40, 20), box(5, 5, 20, 20), box(5, 5.4, 20, 20), box(300, 5, 9, 9), box(9, 9, 0, 5))
    photos.label({item.id: said}, author="ann")
    report = photos.clean.check("boxes")
    by_fault = {one.detail["facts"]["fault"]: one for one in report.findings}
    assert set(by_fault) == {"outside", "double", "beyond", "empty"}
    fixed = [photos.clean.fix(one.id) for one in by_fault.values()]
    assert [shape.points[0] for shape in photos.item(item.id).labels] == [(80, 10, 16, 20), (5, 5, 20, 20)]
    for one in fixed[::-1]:
        photos.undo(one.op)
    assert photos.item(item.id).labels == said


def test_a_finding_whose_item_changed_since_is_not_fixed(photos: Dataset) -> None:
    item = photos.items()[0]
    photos.label({item.id: [Shape(label="car", kind="box", points=((80, 10, 40, 20),))]}, author="ann")
    (found,) = photos.clean.check("boxes").findings
    photos.label({item.id: [Shape(label="car", kind="box", points=((70, 10, 40, 20),))]}, author="bob")
    with pytest.raises(Conflict, match="a shape is not what it was"):
        photos.clean.fix(found.id)
    assert photos.clean.finding(found.id).state == "open"


def classes(space: lw.Workspace, folder: Path) -> Dataset:
    """Two kinds of pictures, 30 each; three red ones are labelled blue."""
    rng = np.random.default_rng(0)
    for name, tone in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
        for number in range(30):
            target = folder / ("blue" if name == "red" and number < 3 else name) / f"{name}-{number:02}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.array(tone) + rng.normal(0, 35, (48, 48, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target)
    dataset = space.dataset("tones", task="image-classification")
    dataset.add(folder, labels="folders")
    return dataset


def test_wrong_labels_are_found_and_put_right(space: lw.Workspace, tmp_path: Path) -> None:
    dataset = classes(space, tmp_path / "tones")
    report = dataset.clean.check("labels")
    names = {one: name for name, one in ids(dataset).items()}
    found = {names[one.items[0]] for one in report.findings}
    assert found
    assert found <= {f"blue/red-0{n}.png" for n in range(3)}
    fixed = dataset.clean.fix(report.findings[0].id, author="ann")
    (label,) = dataset.item(fixed.items[0]).labels
    assert (label.label, label.author) == ("red", "ann")
    assert fixed.items[0] not in {one.items[0] for one in dataset.clean.check("labels").findings}
    dataset.undo(fixed.op)
    assert dataset.item(fixed.items[0]).labels[0].label == "blue"


def test_items_of_another_dataset_are_told_and_one_copy_always_stays(space: lw.Workspace, folder: Path) -> None:
    pair = [space.dataset(name, task="object-detection", classes=("car",)) for name in ("one", "two")]
    for dataset in pair:
        dataset.add(folder, labels="none")
    found = [dataset.clean.check("duplicates").findings[0] for dataset in pair]
    assert found[0].message == "12 items are in dataset two too"
    pair[0].clean.fix(found[0].id)
    pair[1].clean.fix(found[1].id)
    assert [len(dataset.items()) for dataset in pair] == [0, 12]


def test_rare_classes_are_told_and_have_no_fix(space: lw.Workspace, tmp_path: Path) -> None:
    dataset = classes(space, tmp_path / "tones")
    dataset.add_classes(["green"])
    (found,) = dataset.clean.check("imbalance").findings
    assert found.message == "class green has 0 items, the largest class 33"
    with pytest.raises(Invalid, match="must be one with a fix"):
        dataset.clean.fix(found.id)


def test_groups_that_lie_in_several_splits_are_moved_together(photos: Dataset) -> None:
    one, two, three = (item.id for item in photos.items()[:3])
    photos.describe([one, two, three], {"patient": "p1"})
    photos.assign([one], "train")
    photos.assign([two], "test")
    (found,) = photos.clean.check("group-leakage").findings
    photos.clean.fix(found.id)
    assert [photos.item(item).split for item in (one, two, three)] == ["test", "test", ""]


def test_an_outlier_is_found(photos: Dataset, space: lw.Workspace, tmp_path: Path) -> None:
    dataset = classes(space, tmp_path / "tones")
    draw(5).save(tmp_path / "odd.png")
    dataset.add(tmp_path / "odd.png", labels="none")
    assert ids(dataset)["odd.png"] in {one.items[0] for one in dataset.clean.check("outliers").findings}


def test_unknown_checks_and_parameters_are_refused(photos: Dataset) -> None:
    with pytest.raises(NotFound, match="check 'luck' does not exist"):
        photos.clean.check("luck")
    with pytest.raises(Invalid, match=r"clean.dark.share must be less than or equal to 1"):
        photos.clean.check("dark", params={"dark": {"share": 3}})
    with pytest.raises(NotFound, match="finding 'abc' does not exist"):
        photos.clean.fix("abc")


def test_the_report_holds_pictures_and_commands_and_nothing_from_outside(
    photos: Dataset, folder: Path, tmp_path: Path
) -> None:
    draw(3).save(folder / "<b>copy.jpg", quality=80)
    photos.add(folder, labels="none")
    (found,) = photos.clean.check("near-duplicates").findings
    assert photos.clean.report(tmp_path / "report.html") == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 2
    assert f"loopworks data fix photos {found.id[:12]}" in text
    assert "<b>copy" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_similar_items_come_nearest_first_and_say_by_what(photos: Dataset, folder: Path) -> None:
    draw(3).save(folder / "copy.jpg", quality=80)
    photos.add(folder, labels="none")
    found = photos.similar("03.png", k=3)
    assert found.descriptor == "built-in descriptor (look)"
    assert [hit.name for hit in found.hits][0] == "copy.jpg"
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    out = io.BytesIO()
    draw(7).save(out, "PNG")
    assert photos.similar(image=out.getvalue(), k=1).hits[0].name == "07.png"
    assert photos.similar("03.png", k=1, descriptor="near").hits[0].name == "copy.jpg"
    with pytest.raises(Invalid, match="one of item, image and text"):
        photos.similar()
    with pytest.raises(Invalid, match="example must be an image"):
        photos.similar(text="a red car")
    with pytest.raises(NotFound, match="descriptor 'luck'"):
        photos.similar("03.png", descriptor="luck")


def test_the_map_puts_two_kinds_apart_and_is_the_same_again(space: lw.Workspace, tmp_path: Path) -> None:
    dataset = classes(space, tmp_path / "tones")
    found = dataset.map(seed=1)
    assert json.dumps(found.to_json()) == json.dumps(dataset.map(seed=1).to_json())
    red = np.array([(s.x, s.y) for s in found.spots if "red-" in s.name])
    blue = np.array([(s.x, s.y) for s in found.spots if "blue-" in s.name])
    apart = np.linalg.norm(red.mean(axis=0) - blue.mean(axis=0))
    assert apart > 2 * max(red.std(axis=0).max(), blue.std(axis=0).max())
