import importlib.util
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.data.formats.passage import draw

from loopworks.core.errors import Invalid, Missing
from loopworks.data.formats.contract import Record
from loopworks.data.formats.datumaro_bridge import DatumaroBridge
from loopworks.data.stage import create_dataset
from loopworks.store.home import Home

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "annotation-formats"
KINDS = {
    "mot_seq": "mot_dataset/mot_seq_with_seqinfo",
    "wider_face": "widerface_dataset",
    "open_images": "open_images_dataset/v6",
    "label_me": "labelme_dataset",
    "mnist": "mnist_dataset",
}
WORDS = {"class": "label", "box": "bbox"}
needs = pytest.mark.skipif(importlib.util.find_spec("datumaro") is None, reason="needs the [formats] extra")


def test_without_datumaro_the_error_has_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datumaro", None)
    with pytest.raises(Missing, match="datumaro") as caught:
        DatumaroBridge(kind="mot_seq").read(tmp_path)
    assert "pip install 'loopworks[formats]'" in str(caught.value.hint)


def test_it_is_never_chosen_by_itself(tmp_path: Path) -> None:
    assert DatumaroBridge().detect(tmp_path) == 0.0


@needs
@pytest.mark.formats
@pytest.mark.filterwarnings("ignore")
def test_an_unknown_kind_lists_those_of_datumaro(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="wider_face"):
        DatumaroBridge(kind="no_such").read(tmp_path)


@needs
@pytest.mark.formats
@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_expected_annotations_and_boxes(kind: str) -> None:
    cases = dict(json.loads((SAMPLES / "expected.json").read_text(encoding="utf-8"))["cases"])
    expected = cases[KINDS[kind]]
    content = DatumaroBridge(kind=kind).read(SAMPLES / KINDS[kind])
    records = list(content.records)
    missing = [one for one in content.problems if one.message.startswith("media must be a file that is there")]
    assert content.problems == missing
    assert len(missing) == sum(not (record.path or record.data) for record in records)
    assert len(missing) == (kind == "mot_seq")  # its sample comes without the frame that it names
    assert len(records) == expected["items"]
    assert list(content.schema.classes) == expected["categories"]
    found = Counter(WORDS.get(s.kind, s.kind) for r in records for s in r.shapes)
    assert found == expected["annotations"]
    boxes = [
        [*(round(x, 3) for x in s.points[0]), s.label or None] for r in records for s in r.shapes if s.kind == "box"
    ]
    wanted = [[*map(float, box[2:6]), box[6]] for box in expected["boxes"]]
    assert sorted(boxes, key=str) == sorted(wanted, key=str)


@needs
@pytest.mark.formats
@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")
def test_boxes_survive_writing_and_reading_as_open_images(tmp_path: Path) -> None:
    bridge = DatumaroBridge(kind="open_images")
    content = bridge.read(SAMPLES / KINDS["open_images"])
    content.records = records = list(content.records)

    def put(record: Record, place: str) -> None:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.path, tmp_path / place)

    list(bridge.write(content, tmp_path, put))
    again = list(bridge.read(tmp_path).records)
    assert not (tmp_path / ".media").exists()

    def boxes(found: list[Record]) -> list[tuple[object, ...]]:
        rows = [(s.label, *(round(x, 3) for x in s.points[0])) for r in found for s in r.shapes if s.kind == "box"]
        return sorted(rows)

    assert boxes(again) == boxes(records) != []


XML = "<annotation><object><name>a</name><polygon><pt><x>1</x><y>2</y></pt></polygon></object></annotation>"


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("annotations/oidv6-train-annotations-bbox.csv", "ImageID,Source\n", "open_images"),
        ("wider_face_split/wider_face_train_bbx_gt.txt", "a.jpg\n", "wider_face"),
        ("Annotations/one/a.xml", XML, "label_me"),
        ("gt/gt.txt", "1,1,1,2,3,4,1,1,1\n", "mot_seq"),
    ],
)
def test_labels_that_only_datumaro_reads_are_pointed_to(
    home: Home, tmp_path: Path, file: str, text: str, kind: str
) -> None:
    root = tmp_path / "in"
    draw(root / "images" / "dog" / "a.png")
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(text, encoding="utf-8")
    (problem,) = (one for one in create_dataset(home, "a", "image-classification").add(root).problems if one.hint)
    assert problem.where.endswith(file)
    assert f"--format datumaro-bridge --option kind={kind}" in problem.hint
    told = create_dataset(home, "b", "image-classification").add(root, format="folders").problems
    assert not any("datumaro" in one.hint for one in told)
    (root / file).unlink()
    assert create_dataset(home, "c", "image-classification").add(root).problems == ()
