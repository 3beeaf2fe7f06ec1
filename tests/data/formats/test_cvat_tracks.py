# ruff: noqa: E501 (files as CVAT writes them)
"""CVAT for video: shapes of frames, tracks that come back, what bad files give."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from tests.data.formats.samples import assert_same_files, draw, files, load, mutations, said, save, survives

from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.data.formats.contract import Content, Record
from loopworks.data.formats.cvat import Cvat
from loopworks.data.stage import create_dataset
from loopworks.store.home import Home

FORM = Cvat()
TASK = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>5</id>
      <name>street</name>
      <size>4</size>
      <mode>interpolation</mode>
      <start_frame>10</start_frame>
      <stop_frame>16</stop_frame>
      <frame_filter>step=2</frame_filter>
      <labels>
        <label>
          <name>car</name>
          <attributes>
            <attribute>
              <name>speed</name>
              <mutable>True</mutable>
              <input_type>number</input_type>
              <default_value>0</default_value>
              <values></values>
            </attribute>
          </attributes>
        </label>
        <label>
          <name>face</name>
          <type>skeleton</type>
        </label>
        <label>
          <name>1</name>
          <type>points</type>
          <parent>face</parent>
        </label>
      </labels>
      <original_size>
        <width>8</width>
        <height>6</height>
      </original_size>
    </task>
    <dumped>2026-01-01 10:00:00</dumped>
  </meta>
  <track id="0" label="car" source="manual" group_id="3">
    <box frame="10" keyframe="1" outside="0" occluded="0" xtl="1.10" ytl="1.00" xbr="3.30" ybr="4.05" z_order="2">
      <attribute name="speed">12.5</attribute>
    </box>
    <box frame="12" keyframe="0" outside="0" occluded="1" xtl="2.10" ytl="1.00" xbr="4.30" ybr="4.05" z_order="2">
      <attribute name="speed">13</attribute>
    </box>
    <box frame="14" keyframe="0" outside="0" occluded="0" xtl="3.10" ytl="1.00" xbr="5.30" ybr="4.05" z_order="2">
      <attribute name="speed">13</attribute>
    </box>
    <box frame="16" keyframe="1" outside="1" occluded="0" xtl="3.10" ytl="1.00" xbr="5.30" ybr="4.05" z_order="2">
      <attribute name="speed">13</attribute>
    </box>
  </track>
  <track id="1" label="car" source="auto">
    <polygon frame="12" keyframe="1" outside="0" occluded="0" points="1.00,1.00;3.00,1.00;3.00,4.00" z_order="0">
    </polygon>
    <polygon frame="14" keyframe="1" outside="1" occluded="0" points="1.00,1.00;3.00,1.00;3.00,4.00" z_order="0">
    </polygon>
  </track>
  <track id="2" label="car" source="manual">
    <mask frame="14" keyframe="1" outside="0" occluded="0" rle="1, 3, 2" left="2" top="1" width="3" height="2" z_order="0">
    </mask>
  </track>
  <track id="3" label="car" source="manual">
    <ellipse frame="14" keyframe="1" outside="0" occluded="0" cx="4.00" cy="3.00" rx="2.00" ry="1.00" z_order="0">
    </ellipse>
  </track>
  <track id="4" label="face" source="manual">
    <skeleton frame="14" keyframe="1" z_order="0">
      <points label="1" keyframe="1" outside="0" occluded="1" points="3.00,2.00">
      </points>
    </skeleton>
    <skeleton frame="16" keyframe="1" z_order="0">
      <points label="1" keyframe="1" outside="1" occluded="0" points="3.00,2.00">
      </points>
    </skeleton>
  </track>
  <track id="5" label="car" source="manual">
    <polyline frame="10" keyframe="1" outside="0" occluded="0" points="1.00,1.00;3.00,1.00" z_order="0">
    </polyline>
    <polyline frame="12" keyframe="1" outside="1" occluded="0" points="1.00,1.00;3.00,1.00" z_order="0">
    </polyline>
  </track>
  <track id="6" label="car" source="manual">
    <points frame="10" keyframe="1" outside="0" occluded="0" points="1.00,1.00;3.00,1.00" z_order="0">
    </points>
    <points frame="12" keyframe="1" outside="1" occluded="0" points="1.00,1.00;3.00,1.00" z_order="0">
    </points>
  </track>
</annotations>
"""


def folder(tmp_path: Path, text: str = TASK, names: str = "frame_{:06d}.PNG") -> Path:
    root = tmp_path / "in"
    root.mkdir(parents=True, exist_ok=True)
    (root / "annotations.xml").write_bytes(text.encode())
    for frame in range(10, 17, 2):
        draw(root / "images" / names.format(frame), color=(frame, 0, 0))
    return root


def test_each_frame_has_its_shapes(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert FORM.detect(root) > 0.9
    content, records = load(FORM, root)
    assert content.problems == []
    assert content.schema.classes == ("car", "face")
    assert [r.name for r in records] == [f"frame_{n:06d}.PNG" for n in (10, 12, 14, 16)]
    assert [[s.kind for s in r.shapes] for r in records] == [
        ["box", "polyline", "points"],
        ["box", "polygon"],
        ["box", "mask", "ellipse", "points"],
        [],
    ]
    assert all(r.is_labeled and r.path.endswith(r.name) and (r.width, r.height) == (8, 6) for r in records)
    assert records[2].attributes == {"frame": 14}
    first, second = records[0].shapes[0], records[1].shapes[0]
    assert first.points == ((1.1, 1.0, 2.2, 3.05),)
    assert first.facts == {
        "track_id": 0, "keyframe": True, "occluded": False, "z_order": 2, "group_id": 3, "source": "manual", "speed": 12.5,
    }  # fmt: skip
    assert (second.facts["keyframe"], second.facts["occluded"], second.facts["speed"]) == (False, True, 13)
    assert records[2].shapes[3].facts["skeleton"][0]["label"] == "1"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_tracks_come_back_byte_for_byte(tmp_path: Path, codec: str) -> None:
    root = folder(tmp_path)
    text = TASK.replace("\n", "\r\n").replace("utf-8", codec[:6].rstrip("-")).replace(
        '  <track id="3"', '  <!-- gap --><track id="3"'
    )  # fmt: skip
    (root / "annotations.xml").write_bytes(text.encode(codec))
    assert_same_files(FORM, root, tmp_path / "out")


def test_tracks_come_back_through_a_data_set(home: Home, tmp_path: Path) -> None:
    root = folder(tmp_path)
    dataset = create_dataset(home, "video", "object-detection")
    report = dataset.add(root)
    assert (report.added, report.problems) == (4, ())
    assert dataset.export(tmp_path / "out", format="cvat").problems == ()
    assert files(tmp_path / "out")["annotations.xml"] == TASK.encode()
    item = next(one for one in dataset.items() if one.name.endswith("frame_000012.PNG"))
    box = next(shape for shape in item.labels if shape.kind == "box")
    moved = Shape(label="car", kind="box", points=((2.0, 1.0, 2.0, 3.0),), attributes=box.attributes)
    dataset.label({item.id: [moved, *(one for one in item.labels if one is not box)]}, author="eva")
    dataset.export(tmp_path / "again", format="cvat")
    text = (tmp_path / "again" / "annotations.xml").read_text(encoding="utf-8")
    assert (
        '<box frame="12" keyframe="1" outside="0" occluded="1" xtl="2.00" ytl="1.00" xbr="4.00" ybr="4.00" z_order="2">'
        in text
    )
    assert text.count("<track ") == 7  # it is the same track still, by its number


def test_pictures_of_any_name_are_taken_in_their_order(tmp_path: Path) -> None:
    root = folder(tmp_path, names="cam-{:03d}.png")
    content, records = load(FORM, root)
    assert content.problems == []
    assert [r.name for r in records] == [f"cam-{n:03d}.png" for n in (10, 12, 14, 16)]
    assert [r.attributes["frame"] for r in records] == [10, 12, 14, 16]
    assert_same_files(FORM, root, tmp_path / "out")


def test_a_change_becomes_a_key_frame_and_the_rest_keeps_its_text(tmp_path: Path) -> None:
    content, records = load(FORM, folder(tmp_path))
    one, two, three, four = records
    moved = replace(two.shapes[0], points=((2.0, 1.0, 2.0, 3.0),))
    new = Shape(label="bus", kind="box", points=((1.0, 1.0, 2.0, 2.0),), attributes=dump({"speed": 3}))
    content.schema = LabelSchema(classes=("car", "face", "bus"))
    content.records = [one, replace(two, shapes=(moved, new)), three, four]
    assert save(FORM, content, tmp_path / "out") == []
    text = (tmp_path / "out" / "annotations.xml").read_text(encoding="utf-8")
    assert (
        '<box frame="12" keyframe="1" outside="0" occluded="1" xtl="2.00" ytl="1.00" xbr="4.00" ybr="4.00" z_order="2">'
        in text
    )
    assert '<box frame="14" keyframe="1" outside="0"' in text  # CVAT would work it out from the key frames else
    assert '<polygon frame="12" keyframe="1" outside="1"' in text  # taken away
    assert '  <track id="7" label="bus" source="manual">\n    <box frame="12" keyframe="1" outside="0"' in text
    assert '<box frame="14" keyframe="1" outside="1" occluded="0" xtl="1.00" ytl="1.00" xbr="3.00"' in text
    assert "<name>bus</name>" in text
    again, back = load(FORM, tmp_path / "out")
    assert again.problems == []
    assert said(back[0].shapes) == said(one.shapes)
    assert [(s.label, s.points) for s in back[1].shapes] == [("car", moved.points), ("bus", new.points)]
    assert back[1].shapes[0].facts == {**moved.facts, "keyframe": True}


def test_a_changed_class_is_a_track_of_its_own(tmp_path: Path) -> None:
    content, records = load(FORM, folder(tmp_path))
    other = replace(records[2].shapes[3], label="car")
    content.records = [*records[:2], replace(records[2], shapes=(*records[2].shapes[:3], other)), records[3]]
    assert save(FORM, content, tmp_path / "out") == []
    text = (tmp_path / "out" / "annotations.xml").read_text(encoding="utf-8")
    assert '<track id="7" label="car" source="manual">\n    <skeleton frame="14" keyframe="1" z_order="0">' in text
    again, back = load(FORM, tmp_path / "out")
    assert again.problems == []
    assert [(s.label, s.kind, s.points) for s in back[2].shapes[3:]] == [("car", "points", other.points)]


def test_frames_that_are_not_there_leave_their_elements_out(tmp_path: Path) -> None:
    content, records = load(FORM, folder(tmp_path))
    content.records = [records[2], records[3]]
    assert save(FORM, content, tmp_path / "out") == []
    text = (tmp_path / "out" / "annotations.xml").read_text(encoding="utf-8")
    assert [text.count(f'<track id="{n}"') for n in range(7)] == [1, 1, 1, 1, 1, 0, 0]
    assert '<box frame="14" keyframe="1"' in text
    again, back = load(FORM, tmp_path / "out")
    assert again.problems == []
    assert [len(r.shapes) for r in back] == [4, 0]


def test_new_pictures_go_out_as_images_beside_the_tracks(tmp_path: Path) -> None:
    content, records = load(FORM, folder(tmp_path))
    box = Shape(label="car", kind="box", points=((1.0, 1.0, 2.0, 2.0),))
    new = Record(name="new.png", path=str(draw(tmp_path / "new.png")), width=8, height=6, shapes=(box,))
    content.records = [*records, new]
    assert save(FORM, content, tmp_path / "out") == []
    assert (tmp_path / "out" / "annotations.xml").read_text(encoding="utf-8") == TASK
    again, back = load(FORM, tmp_path / "out")
    assert again.problems == []
    assert {r.name: len(r.shapes) for r in back} == {**{r.name: len(r.shapes) for r in records}, "new.png": 1}


def test_two_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    first, records = load(FORM, folder(tmp_path / "a"))
    other = TASK.replace('<track id="0" label="car"', '<track id="0" label="face"')
    second, more = load(FORM, folder(tmp_path / "b", other))
    videos = {**first.meta["cvat"]["videos"], **second.meta["cvat"]["videos"]}
    both = Content(
        schema=first.schema, records=[*records, *more], meta={"cvat": {**first.meta["cvat"], "videos": videos}}
    )
    save(FORM, both, tmp_path / "out")
    written = {name: data.decode() for name, data in files(tmp_path / "out").items() if name.endswith(".xml")}
    assert sorted(written.values()) == sorted([TASK, other])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('xtl="2.10"', 'xtl="nan"', "annotations.xml: line 47, track 0, frame 12: xtl of a box must be a finite number; got nan; left out"),
        ('xtl="2.10"', 'xtl="5.10"', "line 47, track 0, frame 12: size of a box must be 0 or more; got"),
        ('xbr="4.30"', 'xbr="9.30"', "line 47, track 0, frame 12: lies outside the image of 8 x 6; kept"),
        ('box frame="12"', 'box frame="x"', "line 47, track 0, box 2: frame must be a whole number; got x; left out"),
        ('box frame="12"', 'box frame="13"', "line 47, track 0, box 2, frame 13: frame must be one of the task's, 10 to 16 by 2; 1 elements of others were left out"),
        ('box frame="14"', 'box frame="12"', "frame of a track must be there once; got 12 again; left out"),
        ('<track id="2" label="car"', '<track id="2" label="van"', "class 'van' is not in the labels of the file; it was added"),
        ('<track id="2" label="car"', '<track id="2"', "a track must have a class; got none"),
        ("step=2", "every=2", "frame_filter must be step=N; got 'every=2'"),
        ("<stop_frame>16", "<stop_frame>x", "stop_frame must be a whole number; got x"),
        ("<stop_frame>16", "<stop_frame>3", "stop_frame must be 10 or more; got 3"),
        ("  <track id=\"6\"", "  <blob/>\n  <track id=\"6\"", "<blob> has no place"),
        ("  </track>\n</annotations>\n", "  </tr", "XML must be whole; got"),
    ],
)  # fmt: skip
def test_bad_input_gives_a_line_with_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in TASK
    content, records = load(FORM, folder(tmp_path, TASK.replace(old, new)))
    lines = [f"{p.where}: {p.message}" for p in content.problems]
    assert any(words in line for line in lines), lines
    assert len(lines) <= 2  # a frame that cannot be read is also a gap of its track
    assert len(records) == 4
    out = tmp_path / "out"
    save(FORM, content, out)
    if words != "XML must be whole; got":
        assert (out / "annotations.xml").read_text(encoding="utf-8") == TASK.replace(old, new)


def test_frames_between_are_told_and_not_made_up(tmp_path: Path) -> None:
    start = TASK.index('    <box frame="12"')
    content, records = load(FORM, folder(tmp_path, TASK[:start] + TASK[TASK.index('    <box frame="14"') :]))
    (problem,) = content.problems
    assert problem.message == (
        "1 tracks leap over frames (first: track 0, from frame 10 to 14); no shapes were made for the frames between"
    )
    assert [len(r.shapes) for r in records] == [3, 1, 4, 0]


def test_missing_pictures_are_one_line(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "images" / "frame_000012.PNG").unlink()
    content, records = load(FORM, root)
    assert [p.message for p in content.problems] == [
        "the pictures of 1 frames with shapes are missing (first: frame 12)"
    ]
    assert [bool(r.path) for r in records] == [True, False, True, True]
    for frame in (10, 14, 16):
        (root / "images" / f"frame_{frame:06d}.PNG").unlink()
    (root / "clip.mp4").write_bytes(b"")
    (problem,) = load(FORM, root)[0].problems
    assert "tracks are not joined with clip.mp4 itself" in problem.hint
    draw(root / "images" / "other.png")
    assert [p.message for p in load(FORM, root)[0].problems] == [
        "1 pictures are of no frame of the task (first: other.png); left out",
        "the pictures of 4 frames with shapes are missing (first: frame 10)",
    ]


def test_tracks_of_several_tasks_are_refused(tmp_path: Path) -> None:
    text = TASK.replace('<track id="0"', '<track id="0" task_id="1"').replace(
        '<track id="1"', '<track id="1" task_id="2"'
    )
    with pytest.raises(Invalid, match="tracks of one task"):
        load(FORM, folder(tmp_path, text))


def test_skeletons_of_the_first_version_with_skeletons(tmp_path: Path) -> None:
    joint = '      <points frame="14" outside="0" occluded="0" keyframe="1" points="3.00,2.00" z_order="0">\n      </points>\n'
    track = (
        '  <track id="4" label="face" source="manual">\n'
        '    <skeleton frame="14" outside="0" occluded="0" keyframe="1" points="3.00,2.00;4.00,2.00" z_order="0">\n    </skeleton>\n'
        f'    <track id="0" label="1" source="manual">\n{joint}    </track>\n'
        f'    <track id="1" label="2" source="manual">\n{joint}    </track>\n  </track>\n'
    )
    text = TASK[: TASK.index('  <track id="4"')] + track + TASK[TASK.index('  <track id="5"') :]
    root = folder(tmp_path, text)
    content, records = load(FORM, root)
    assert [p.message for p in content.problems] == [
        "a joint's own track inside a track was left out; the skeleton's own points were taken (2x)"
    ]
    assert records[2].shapes[3].points == ((3.0, 2.0, 4.0, 2.0),)
    assert_same_files(FORM, root, tmp_path / "out")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "images" / "frame_000012.PNG").unlink()
    (root / "images" / "frame_000012.PNG").symlink_to(draw(tmp_path / "secret.png"))
    content, records = load(FORM, root)
    assert records[1].path == ""
    assert len(content.problems) == 1


@settings(max_examples=40, deadline=None)
@given(mutations(TASK.encode()))
def test_broken_files_never_crash(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "annotations.xml").write_bytes(data)
        draw(Path(name) / "images" / "frame_000010.PNG")
        survives(FORM, Path(name))
