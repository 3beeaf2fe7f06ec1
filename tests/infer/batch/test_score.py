"""Batches: every item once and in order, whatever is unreadable, however often the work is killed."""

import csv
import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loopworks as lw
from loopworks.core.bundle import Bundle
from loopworks.core.errors import Cancelled, Conflict, Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.infer.batch import score as batch
from loopworks.jobs import Job, spread
from loopworks.store import bundles, models
from loopworks.testing.context import context

COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, colors: Any) -> Bundle:
    made: Bundle = colors.write(tmp_path_factory.mktemp("model"))
    return made


@pytest.fixture
def space(tmp_path: Path) -> Iterator[lw.Workspace]:
    with lw.open(tmp_path / "space") as made:
        yield made


def paint(folder: Path, count: int) -> list[str]:
    """Pictures whose colours take turns; the colour of each, in order of name."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 60, (16, 16, 3), np.uint8)
        pixels[..., i % 3] += 150
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
        wanted.append(COLORS[i % 3])
    return wanted


def run(space: lw.Workspace, bundle: Bundle, source: Path | str, out: Path, scratch: Path, **how: Any) -> Any:
    ctx = context(scratch, **how)
    return batch.score(space.home, bundle, "", "colors/1", str(source), out, ctx)


def read(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return found


def test_a_folder_is_answered_in_order_and_what_is_unreadable_is_a_row_with_an_error(
    space: lw.Workspace, bundle: Bundle, tmp_path: Path
) -> None:
    wanted = paint(tmp_path / "in", 7)
    (tmp_path / "in" / "003b.jpg").write_bytes(b"no image")
    done = run(space, bundle, tmp_path / "in", tmp_path / "out.parquet", tmp_path / "s")
    rows = read(tmp_path / "out.parquet")
    assert [row["name"] for row in rows] == sorted(p.name for p in (tmp_path / "in").iterdir())
    good = [row for row in rows if row["error"] is None]
    assert [row["label"] for row in good] == wanted
    assert all(0 < row["score"] <= 1 for row in good)
    assert json.loads(good[0]["answer"])["chosen"] == ["red"]
    assert good[0]["prediction"] == f"colors/1/{good[0]['item']}"
    (bad,) = (row for row in rows if row["error"])
    assert bad["name"] == "003b.jpg"
    assert "003b.jpg must be an image" in bad["error"]
    assert (done["items"], done["unread"]) == (8, 1)


def test_a_killed_batch_goes_on_and_has_nothing_twice(
    space: lw.Workspace, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PART", 4)
    wanted = paint(tmp_path / "in", 30)
    written: list[Path] = []
    write = batch._write

    def dying(path: Path, rows: Any) -> None:
        if len(written) == 3:
            raise Cancelled
        write(path, rows)
        written.append(path)

    monkeypatch.setattr(batch, "_write", dying)
    with pytest.raises(Cancelled):
        run(space, bundle, tmp_path / "in", tmp_path / "out.csv", tmp_path / "s")
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "in" / "000a.png").write_bytes(b"came later, and is no part of this batch")
    asked: list[str] = []
    call = batch.Scorer.__call__

    def counting(self: batch.Scorer, pieces: Any) -> Any:
        asked.extend(piece.name for piece in pieces)
        return call(self, pieces)

    monkeypatch.setattr(batch, "_write", write)
    monkeypatch.setattr(batch.Scorer, "__call__", counting)
    done = run(space, bundle, tmp_path / "in", tmp_path / "out.csv", tmp_path / "s")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == wanted
    assert sorted(asked) == [f"{i:03}.png" for i in range(12, 30)]  # the three parts that were done are not asked again
    assert done["items"] == 30
    assert batch.finished(tmp_path / "out.csv", tmp_path / "s")["items"] == 30  # type: ignore[index]


def test_parquet_files_with_images_are_read_piece_by_piece(space: lw.Workspace, bundle: Bundle, tmp_path: Path) -> None:
    wanted = paint(tmp_path / "pictures", 6)
    data = [path.read_bytes() for path in sorted((tmp_path / "pictures").iterdir())]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": data[:3]}), tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table({"image": [{"bytes": x, "path": ""} for x in data[3:]]}), tmp_path / "in" / "b.parquet")
    pq.write_table(pa.table({"picture": data[:1]}), tmp_path / "in" / "c.parquet")
    (tmp_path / "in" / "d.parquet").write_bytes(b"PAR1 and no more")
    run(space, bundle, tmp_path / "in", tmp_path / "out", tmp_path / "s")
    rows = read(tmp_path / "out")
    assert [row["label"] for row in rows] == [*wanted, None, None]
    assert "a column 'image' of bytes" in rows[6]["error"]
    assert "must be a Parquet file" in rows[7]["error"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["part-00000.parquet"]


def test_a_file_that_changes_under_a_killed_batch_is_refused(
    space: lw.Workspace, bundle: Bundle, tmp_path: Path
) -> None:
    paint(tmp_path / "pictures", 1)
    data = [(tmp_path / "pictures" / "000.png").read_bytes()]
    pq.write_table(pa.table({"image": data}), tmp_path / "a.parquet")
    run(space, bundle, tmp_path / "a.parquet", tmp_path / "out.csv", tmp_path / "s")
    pq.write_table(pa.table({"image": data * 2}), tmp_path / "a.parquet")
    with pytest.raises(Conflict, match="must stay as it was"):
        run(space, bundle, tmp_path / "a.parquet", tmp_path / "out.csv", tmp_path / "s")


def test_it_stops_when_asked(
    space: lw.Workspace, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "in", 3)
    monkeypatch.setattr("time.monotonic", iter(range(100_000)).__next__)
    with pytest.raises(Cancelled):
        run(space, bundle, tmp_path / "in", tmp_path / "out.csv", tmp_path / "s", stop_after=1)


class Queue:
    """Runs a job's step here and now, as a worker's child does."""

    def __init__(self, space: lw.Workspace) -> None:
        self.folder, self.done = space.folder, {"": dict[str, Any]()}

    def submit(self, step: str, params: Any, *, title: str = "", key: str | None = None) -> str:
        assert title == "score litter by colors"
        work = plugins.get(f"job.{step}")
        self.done[step] = work(str(self.folder), json.loads(json.dumps(params)), context(self.folder / "cache" / "j"))
        return step

    def get(self, job_id: str) -> Any:
        moment = datetime(2026, 1, 2, tzinfo=UTC)
        return Job(id=job_id, step=job_id, title="", params={}, status="done", created_at=moment)

    def result(self, job_id: str, on_progress: Any = None) -> dict[str, Any]:
        return self.done[job_id]

    def close(self) -> None:
        """Nothing runs."""


def test_the_job_answers_a_dataset_as_python_does(
    space: lw.Workspace, bundle: Bundle, tmp_path: Path, pictures: Any
) -> None:
    key = bundles.save(space.home.blobs, bundle.folder)
    with space.home.catalog.begin() as tx:
        models.add(tx, "colors", bundle=key, run="", version="0" * 64, task=bundle.task, variant=bundle.chosen)
    space.deploy("colors")
    space.add("litter", pictures(tmp_path / "in", {"cat": 3, "dog": 2}))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    for out, words in ((tmp_path / "there", "empty or new folder"), (tmp_path / "a.json", "a file that ends in")):
        with pytest.raises(Invalid, match=words):
            space.score_files_job("colors", "litter", out=out)
    with pytest.raises(NotFound, match="nope"):
        space.score_files_job("nope", "litter", out=tmp_path / "out.csv")
    with pytest.raises(NotFound, match="nope"):
        space.score_files_job("colors", "nope", out=tmp_path / "out.csv")
    space._jobs = Queue(space)  # type: ignore[assignment]
    done = space.score_files("colors", "litter", out=tmp_path / "out.parquet")
    rows = read(tmp_path / "out.parquet")
    assert {row["item"]: row["label"] for row in rows} == {
        item.id: space.predict("colors", space.dataset("litter").read(item))["chosen"][0]
        for item in space.dataset("litter").items()
    }
    assert (done["items"], done["unread"]) == (5, 0)
    assert [row["prediction"] for row in rows] == [f"colors/1/{row['item']}" for row in rows]


def test_rows_of_files_and_of_a_table_are_asked_alike(space: lw.Workspace, tmp_path: Path, bundle: Bundle) -> None:
    from loopworks.infer.batch.pieces import Pieces

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("id,age\n1,40\n2,50\n", encoding="utf-8")
    (tmp_path / "in" / "b.jsonl").write_text('{"id": "3", "age": "60"}\n', encoding="utf-8")
    space.dataset("people", "tabular-regression").table.add([tmp_path / "in" / "a.csv", tmp_path / "in" / "b.jsonl"])
    for name, source in (("files", str(tmp_path / "in")), ("table", "people")):
        (tmp_path / name).mkdir()
        found = Pieces(space.home, source, "row", tmp_path / name)
        again = Pieces(space.home, source, "row", tmp_path / name)
        assert list(found) == list(again)
        assert sorted(str(piece.content["age"]) for piece in found) == ["40", "50", "60"]
    with pytest.raises(Invalid, match="of media image, as the model"):
        Pieces(space.home, "people", "image", tmp_path)


def test_what_a_node_of_a_cluster_does_gives_the_same(
    space: lw.Workspace, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body of a Ray task, run here: pieces and scorer arrive pickled, rows leave pickled."""

    def on_cluster(function: Any, items: Any, settings: Any, *, batch: int) -> Iterator[Any]:
        found = list(items)
        for at in range(0, len(found), batch):
            some = found[at : at + batch]
            sent = {"at": list(range(len(some))), "item": [pickle.dumps(one) for one in some]}
            for result in spread._call(pickle.loads(pickle.dumps(function)), sent)["result"]:
                yield pickle.loads(result)

    paint(tmp_path / "in", 5)
    (tmp_path / "in" / "x.png").write_bytes(b"no image")
    run(space, bundle, tmp_path / "in", tmp_path / "here.parquet", tmp_path / "a")
    monkeypatch.setattr(batch, "spread", on_cluster)
    run(space, bundle, tmp_path / "in", tmp_path / "there.parquet", tmp_path / "b")
    assert read(tmp_path / "here.parquet") == read(tmp_path / "there.parquet")
