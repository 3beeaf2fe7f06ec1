"""Answers with places: what is private is blurred before anything is written, and boxes lie where they were."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.infer.watch.conftest import Watching, people
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Shape
from loopworks.infer.watch import privacy
from loopworks.infer.watch.judge import Seen
from loopworks.infer.watch.keeping import Chosen, Keeper
from loopworks.infer.watch.rules import Privacy, parse

Start = Callable[[lw.Workspace], Watching]


def street() -> bytes:
    pixels = np.random.default_rng(3).integers(0, 255, (40, 80, 3), np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def box(label: str, *points: float) -> tuple[Shape, float]:
    return Shape(label=label, kind="box", source="model", points=(tuple(map(float, points)),)), 0.9


@pytest.fixture
def streets(space: lw.Workspace, tmp_path: Path, colors: Any) -> Callable[..., Keeper]:
    """``streets({"blur": ["face"]})`` keeps what a detector of faces and cars saw at 40 x 20 pixels."""
    dataset = space.dataset("streets", task="object-detection", classes=("car", "face"))
    bundle = dataclasses.replace(
        colors.write(tmp_path / "detector"),
        task="object-detection",
        schema=LabelSchema(classes=("car", "face")),
    )
    bundle = dataclasses.replace(bundle, rule=dataclasses.replace(bundle.rule, width=40, height=20))

    def make(rules: dict[str, Any]) -> Keeper:
        return Keeper(
            home=space.home,
            deployment="streets",
            revision=1,
            model="detector:1",
            bundle=bundle,
            rules=parse({"privacy": rules}),
            dataset=dataset,
        )

    return make


SAID = (box("car", 40, 10, 20, 20), box("face", 4, 4, 16, 16))


def keep(keeper: Keeper) -> tuple[Any, np.ndarray[Any, Any], list[Any]]:
    content = street()
    seen = Seen(item="a" * 64, name="street", content=content, said=SAID, size=(80, 40))
    done = keeper.keep([Chosen(seen, ("random",))])
    assert (done.kept, done.problems) == (1, [])
    assert keeper.dataset is not None
    (item,) = keeper.dataset.items()
    with Image.open(io.BytesIO(keeper.dataset.read(item))) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    said = keeper.dataset.look.said([item.id])[item.id]
    return item, pixels, [(one.label, one.shape.points[0]) for one in said]


def test_a_face_is_blurred_before_it_is_written(streets: Callable[..., Keeper], space: lw.Workspace) -> None:
    _, pixels, said = keep(streets({"blur": ["face"]}))
    with Image.open(io.BytesIO(street())) as opened:
        before = np.asarray(opened)
    assert pixels[4:20, 4:20].std() < 0.3 * before[4:20, 4:20].std()
    assert (pixels[:, 30:] == before[:, 30:]).all()
    assert said == [("car", (40, 10, 20, 20)), ("face", (4, 4, 16, 16))]
    assert not space.home.blobs.has(sha256(street())), "the original is nowhere"


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_boxes_follow_when_less_than_the_picture_is_kept(streets: Callable[..., Keeper]) -> None:
    item, pixels, said = keep(streets({"keep": "tensors"}))
    assert pixels.shape == (20, 40, 3)
    assert said == [("car", (20, 5, 10, 10)), ("face", (2, 2, 8, 8))]
    assert item.id != "a" * 64


def test_what_cannot_be_blurred_is_not_kept(streets: Callable[..., Keeper]) -> None:
    keeper = streets({"blur": ["face"]})
    mask = Shape(label="face", kind="mask", source="model", points=((40.0, 80.0),), mask="00")
    seen = Seen(item="b" * 64, name="street", content=street(), said=((mask, 0.9),), size=(80, 40))
    done = keeper.keep([Chosen(seen, ("random",))])
    assert done.kept == 0
    assert "what is blurred must be a box or polygon; got mask" in done.problems[0].message
    assert keeper.dataset is not None
    assert keeper.dataset.items() == []


def test_rules_that_blur_are_checked_by_the_models_classes(streets: Callable[..., Keeper]) -> None:
    bundle = streets({}).bundle
    privacy.check(Privacy(blur=("face",)), bundle)
    with pytest.raises(Invalid, match=r"must be classes of the model \(car, face\); got plate"):
        privacy.check(Privacy(blur=("plate",)), bundle)


def test_every_command_speaks_to_people(table_space: lw.Workspace, start: Start, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "key: id\ncapture: [{when: random, share: 1}]\ndrift: {window: 50}\nretrain: {new_labels: 9}\n",
        encoding="utf-8",
    )
    where = ["-w", str(table_space.folder)]

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["watch", *words, *where])
        assert done.exit_code == 0, done.output
        return done.output

    assert "captures random; drift on" in run("set", "churn", str(tmp_path / "rules.yaml"))
    assert "churn" in run("ls")
    on = start(table_space)
    on.ask_rows(people(1, 60))
    on.flush()
    on.settle("churn")
    said = on.ask_rows(people(60, 61, age=80))
    on.flush()
    told = run("show", "churn")
    assert "61 predictions logged" in told
    assert "inbox: inbox 61" in told
    assert "estimated from confidence, not measured (atc)" in told
    assert "drift of 60 items" in told
    assert "random" in run("inbox", "churn")
    assert "alarm" in run("events", "churn", "--kind", "alarm")
    assert "the answer was wrong" in run("feedback", said[0]["id"], "--wrong")
    assert "churn: idle" in run("retrain", "churn", "--dry-run")
    assert "0 items, 0 rows and 0 predictions would be erased" in run("purge", "churn", "--dry-run")
    assert "not watched any more" in run("stop", "churn")
    by_http = on.client.get("/api/deployments/churn/watch/inbox", params={"limit": 2}).json()
    assert len(by_http["inbox"]) == 2
