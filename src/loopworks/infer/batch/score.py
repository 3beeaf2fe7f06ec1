"""Asking a model about many items and keeping its answers in files: in parts, so that a kill costs one of them."""

import functools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context, Learnable, Predictor
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.infer import local
from loopworks.infer.batch.pieces import Piece, Pieces
from loopworks.jobs.spread import is_spread, spread
from loopworks.store.blobs import BlobStore, open_blobs, write_error
from loopworks.store.home import Home
from loopworks.store.ids import batches

PART = 1024
"""Items of one part: what a kill costs at most."""
BATCH = 32
"""Items of one run of the model."""
COLUMNS = ("name", "item", "prediction", "label", "score", "value", "answer", "error")


@dataclass(frozen=True, slots=True)
class Scorer:
    """Answers for a batch of pieces, here or on a node of a cluster that reaches the same workspace."""

    folder: str
    """Of the bundle."""
    variant: str
    author: str
    """What the ids of predictions begin with: ``NAME/REVISION`` of a deployment, or a model."""
    blobs: str
    blob_folder: str
    max_pixels: int
    threads: int

    def __call__(self, batch: list[Piece]) -> list[dict[str, Any]]:
        """A row of ``COLUMNS`` for each piece."""
        bundle, predictor, turn = _loaded(self.folder, self.variant, self.threads)
        found: dict[int, dict[str, Any]] = {}
        asked: list[tuple[int, local.Loaded]] = []
        shelf = _Shelf(open_blobs(self.blobs, Path(self.blob_folder)))
        try:
            for place, piece in enumerate(batch):
                try:
                    if piece.problem is not None:
                        found[place] = _bad(piece.name, piece.problem)
                        continue
                    media = bundle.rule.media
                    asked.append((place, local.one(piece.read(shelf, media), piece.name, media, self.max_pixels)))
                except LoopworksError as error:
                    found[place] = _bad(piece.name, local.problem(error, piece.name))
        finally:
            shelf.blobs.close()
        task: Learnable = plugins.get(f"task.{bundle.task}")
        good, tensors, problems = local.packed(bundle.rule, [one for _, one in asked], self.max_pixels)
        bad = {problem.where: problem for problem in problems}
        values: dict[int, dict[str, Any]] = {}
        if good:
            with turn:
                outputs = predictor.predict(tensors)
            sizes = [one.size for one in good if one.size is not None]
            answers = task.decode(outputs, bundle.schema, sizes)
            values = {id(one): answer for one, answer in zip(good, answers, strict=True)}
        for place, one in asked:
            answer = values.get(id(one))
            found[place] = _bad(one.name, bad[one.name]) if answer is None else _row(self.author, one, answer)
        return [found[place] for place in range(len(batch))]


@dataclass(frozen=True, slots=True)
class _Shelf:
    blobs: BlobStore


@functools.lru_cache(maxsize=2)
def _loaded(folder: str, variant: str, threads: int) -> tuple[Bundle, Predictor, threading.Lock]:
    """A model in this process, and the lock of whoever runs it: a predictor serves one thread at a time."""
    bundle = bundles.read(Path(folder))
    chosen = bundle.variant(variant)
    return bundle, predictors.load(chosen, bundle.folder, bundle.rule, threads=threads), threading.Lock()


def score(
    home: Home, bundle: Bundle, variant: str, author: str, source: str, out: Path, ctx: Context
) -> dict[str, Any]:
    """Ask about every item of a source and write the answers to ``out``.

    What cannot be read or answered is a row with an ``error``. Run again in the same ``ctx.scratch`` it goes on after
    the last part that was finished; nothing is in the result twice.

    Args:
        home: the workspace.
        bundle: the model.
        variant: which form of it.
        author: what the ids of predictions begin with.
        source: name of a dataset, or an absolute path of a folder or file.
        out: an absolute path: a folder (Parquet parts), or a file that ends in .parquet or .csv.
        ctx: of the job.
    Returns: ``out``, ``items``, ``unread`` (rows with an error), ``seconds`` and ``per_s`` of this attempt.
    Raises: NotFound, Invalid: nothing there to ask about. NoSpace, Denied: it cannot be written.
    """
    ctx.scratch.mkdir(parents=True, exist_ok=True)
    pieces = Pieces(home, source, bundle.rule.media, ctx.scratch)
    parts = ctx.scratch / "parts"
    parts.mkdir(exist_ok=True)
    done = sorted(parts.glob("*.parquet"))
    before = items = sum(_count(path) for path in done)
    on_cluster = is_spread(home.settings)
    scorer = Scorer(
        folder=str(bundle.folder),
        variant=variant,
        author=author,
        blobs=home.settings.blobs,
        blob_folder=str(home.folder / "blobs"),
        max_pixels=home.settings.max_image_pixels,
        threads=1 if on_cluster else home.settings.threads,
    )
    rest = islice(pieces, items, None)
    began = time.monotonic()
    answers = spread(scorer, rest, home.settings, batch=BATCH)
    for rows in batches(_watched(answers, before, pieces.total, began, ctx), PART):
        _write(parts / f"{len(done):05}.parquet", rows)
        done.append(parts / f"{len(done):05}.parquet")
        items += len(rows)
    took = time.monotonic() - began
    if not items:
        raise Invalid(source, "a place with items", "none")
    ctx.tick(0.98, f"writing {out.name}")
    _publish(done, out)
    unread = sum(_bad_rows(path) for path in done)
    shutil.rmtree(parts, ignore_errors=True)
    (ctx.scratch / "done.json").write_text(json.dumps({"items": items, "unread": unread}), encoding="utf-8")
    rate = (items - before) / took if took > 0 else 0.0
    return {"out": str(out), "items": items, "unread": unread, "seconds": round(took, 3), "per_s": round(rate, 1)}


def finished(out: Path, scratch: Path) -> dict[str, Any] | None:
    """What an attempt that was killed after its last word had done."""
    path = scratch / "done.json"
    if not path.is_file() or not out.exists():
        return None
    return {"out": str(out), **json.loads(path.read_text(encoding="utf-8")), "seconds": 0.0, "per_s": 0.0}


def check_out(out: Path) -> None:
    """Refuse a result that is there already, or of a kind that nobody writes; before any work."""
    if out.suffix and out.suffix not in (".parquet", ".csv"):
        raise Invalid("out", "a folder, or a file that ends in .parquet or .csv", out.name)
    if out.is_file() or (out.is_dir() and (out.suffix or any(out.iterdir()))):
        raise Invalid("out", "a new file, or an empty or new folder", f"{out}, which is there", "choose another name")


def _watched(
    rows: Iterator[dict[str, Any]], before: int, total: int, began: float, ctx: Context
) -> Iterator[dict[str, Any]]:
    """The rows, with the progress told twice a second."""
    told = began
    for place, row in enumerate(rows, before + 1):
        if (now := time.monotonic()) - told > 0.5:
            told = now
            of = f"{place:,} of {total:,}" if total else f"{place:,}"
            share = 0.97 * place / total if total else 0.5
            ctx.tick(min(share, 0.97), f"{of} items, {(place - before) / (now - began):,.0f}/s")
        yield row


def _bad(name: str, problem: Problem) -> dict[str, Any]:
    said = problem.message + (f" ({problem.hint})" if problem.hint else "")
    return {**dict.fromkeys(COLUMNS), "name": name, "error": said}


def _row(author: str, one: local.Loaded, answer: dict[str, Any]) -> dict[str, Any]:
    listed = next((rows for rows in answer.values() if isinstance(rows, list) and _is_scored(rows)), [])
    chosen = answer.get("chosen")
    label = ", ".join(chosen) if isinstance(chosen, list) else (listed[0]["label"] if listed else None)
    first = next((row["score"] for row in listed if chosen is None or row["label"] in chosen), None)
    value = answer.get("value")
    return {
        "name": one.name,
        "item": one.item,
        "prediction": f"{author}/{one.item}",
        "label": label,
        "score": first,
        "value": float(value) if isinstance(value, int | float) else None,
        "answer": json.dumps(answer, ensure_ascii=False),
        "error": None,
    }


def _is_scored(rows: Sequence[Any]) -> bool:
    return bool(rows) and all(isinstance(row, dict) and {"label", "score"} <= row.keys() for row in rows)


# ---- files


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.float64() if name in ("score", "value") else pa.string()) for name in COLUMNS])


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    temp = path.with_suffix(".partial")
    try:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=_schema()), temp, compression="zstd")
        os.replace(temp, path)
    except OSError as error:
        raise write_error(path.parent, error) from None


def _count(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def _bad_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=["error"])["error"]
    return len(column) - int(column.null_count)


def _publish(parts: Sequence[Path], out: Path) -> None:
    """Whole under its name, or not there: written beside it, then renamed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.suffix:
            out.mkdir(exist_ok=True)
            for place, part in enumerate(parts):
                target = out / f"part-{place:05}.parquet"
                temp = target.with_suffix(".partial")
                shutil.copyfile(part, temp)
                os.replace(temp, target)
            return
        temp = out.with_name(f".{out.name}.partial")
        _join(parts, temp, out.suffix)
        os.replace(temp, out)
    except OSError as error:
        raise write_error(out.parent, error) from None


def _join(parts: Sequence[Path], target: Path, suffix: str) -> None:
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    writer: Any = csv.CSVWriter(target, _schema()) if suffix == ".csv" else pq.ParquetWriter(target, _schema())
    with writer:
        for part in parts:
            writer.write_table(pq.read_table(part, schema=_schema()))
