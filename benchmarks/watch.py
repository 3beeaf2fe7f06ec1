"""Watching: false alarms and power of drift on real tables, a million logged predictions, and what requests pay for it.

Tables: Capital Bikeshare by hour, and credit-default (UCI), where they lie beside the checkout. A false alarm is an
alarm on windows that were drawn at random from the same rows as the reference.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import Figure
from loopworks.infer.watch import accuracy, drift, reference, statistics
from loopworks.infer.watch.log import Log, schema
from loopworks.infer.watch.reference import Reference
from loopworks.infer.watch.rules import Drift
from loopworks.infer.watch.traits import Scale, Traits, _of_images

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SPLITS = 200
WINDOW = 1_000
CATEGORIES = {
    "season",
    "holiday",
    "workingday",
    "weather",
    "SEX",
    "EDUCATION",
    "MARRIAGE",
    "default.payment.next.month",
}
LEFT_OUT = {"datetime", "ID"}


def table(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """The columns that are compared, and all of them."""
    import pandas

    found = pandas.read_csv(path)
    columns = {
        name: found[name].astype(str).to_numpy() if name in CATEGORIES else found[name].to_numpy(np.float64)
        for name in found.columns
        if name not in LEFT_OUT
    }
    return columns, found


def traits(columns: Mapping[str, NDArray[Any]], at: NDArray[np.intp]) -> Traits:
    numbers = {name: values[at].astype(np.float64) for name, values in columns.items() if name not in CATEGORIES}
    categories: dict[str, Sequence[str]] = {n: v[at].tolist() for n, v in columns.items() if n in CATEGORIES}
    return Traits(numbers, categories, np.stack(list(numbers.values()), axis=1).astype(np.float32))


def of(columns: Mapping[str, NDArray[Any]], at: NDArray[np.intp]) -> Reference:
    found = traits(columns, at)
    assert found.points is not None
    scale = Scale.fit(found.points, is_scaled=False)
    points = scale.apply(found.points)[: reference.POINTS]
    return Reference(
        version="",
        inputs=Traits(found.numbers, found.categories, points),
        answers=Traits(),
        split="val",
        scale=scale,
        far=np.sort(statistics.nearest(points, points, is_same=True)),
        confidence=None,
    )


def alarms(name: str, columns: Mapping[str, NDArray[Any]], rules: Drift) -> Figure:
    """Share of random windows that are called drift."""
    rng = np.random.default_rng(0)
    count = len(next(iter(columns.values())))
    false, by_certainty = 0, 0
    for seed in range(SPLITS):
        order = rng.permutation(count)
        ready = of(columns, order[: reference.MOST])
        report = drift.compare(
            ready, traits(columns, order[reference.MOST : reference.MOST + WINDOW]), Traits(), rules, seed=seed
        )
        false += report.is_drift
        by_certainty += any(column.p <= rules.alpha / 2 / len(report.columns) for column in report.columns)
    low, high = statistics.wilson(false, SPLITS)
    return Figure(
        name=f"drift_false_alarms_{name}",
        value=false / SPLITS,
        unit="share",
        target=0.03,
        detail=f"[{low:.3f}, {high:.3f}] of {SPLITS} random windows of {WINDOW} against {reference.MOST} rows, "
        f"{len(columns)} columns and MMD, alpha {rules.alpha}; by certainty alone {by_certainty / SPLITS:.3f}",
    )


def power(
    name: str, columns: Mapping[str, NDArray[Any]], before: NDArray[np.bool_], after: NDArray[np.bool_], window: int
) -> Figure:
    """Share of windows from elsewhere that are called drift."""
    rng = np.random.default_rng(1)
    was, now = np.flatnonzero(before), np.flatnonzero(after)
    found = 0
    rounds = 40
    for seed in range(rounds):
        ready = of(columns, rng.choice(was, min(len(was), reference.MOST), replace=False))
        live = traits(columns, rng.choice(now, window, replace=False))
        found += drift.compare(ready, live, Traits(), Drift(), seed=seed).is_drift
    return Figure(
        name=f"drift_power_{name}",
        value=found / rounds,
        unit="share",
        target=0.95,
        at_least=True,
        detail=f"of {rounds} windows of {window}",
    )


def logged() -> list[Figure]:
    """A million predictions in parts of 20,000, read and joined to 100,000 truths."""
    import pyarrow as pa

    import loopworks as lw

    rng = np.random.default_rng(0)
    count, part = 1_000_000, 20_000
    with tempfile.TemporaryDirectory() as folder, lw.open(Path(folder) / "space") as space:
        log = Log(space.home, "d")
        ids = [rng.bytes(32) for _ in range(count)]
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        writing = 0.0
        for at in range(0, count, part):
            columns: dict[str, Any] = {
                "item": ids[at : at + part],
                "revision": [1] * part,
                "key": [f"c{n}" for n in range(at, at + part)],
                "answer": ["yes" if n % 3 else "no" for n in range(part)],
                "score": rng.random(part, np.float32),
                "at": [moment] * part,
            }
            made = pa.table({name: pa.array(columns[name], schema().field(name).type) for name in schema().names})
            began = time.perf_counter()
            log.add_table(made)
            writing += time.perf_counter() - began
        size = sum(space.home.blobs.size(key) for key in space.home.blobs.keys())  # noqa: SIM118
        truths: dict[str, tuple[Any, bool | None]] = {ids[n].hex(): ("yes", None) for n in range(0, count, 10)}
        began = time.perf_counter()
        rows = log.read(columns=["item", "answer"])
        found = accuracy.measured(rows, truths, frozenset({"class"}), "truth")
        joined = time.perf_counter() - began
    assert rows.num_rows == count
    assert found is not None
    assert found["count"] == count // 10
    told = f"1,000,000 predictions in 50 parts, written in {writing:.1f} s"
    return [
        Figure(name="log_1m_mb", value=size / 1e6, unit="MB", target=100, detail=told),
        Figure(name="log_1m_join_s", value=joined, unit="s", target=5, detail="read, and joined to 100,000 truths"),
    ]


def paid() -> Figure:
    """What one look at a run costs the thread that answers, in microseconds."""
    import loopworks as lw
    from loopworks.infer.watch.watcher import Watcher
    from loopworks.store import watching

    class Served:
        name, version = "d", "1"

    inputs = {f"c{n}": np.zeros((16, 1)) for n in range(10)}
    outputs = {"scores": np.zeros((16, 2), np.float32)}
    with tempfile.TemporaryDirectory() as folder, lw.open(Path(folder) / "space") as space:
        with space.home.catalog.begin() as tx:
            watching.set_rules(tx, "d", {"capture": [], "log": {"is_on": False}, "drift": {"is_on": False}})
        watcher = Watcher(space.home)
        served: Any = Served()
        best = float("inf")
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(500):
                watcher.saw(served, inputs, outputs, 16)
            best = min(best, (time.perf_counter() - began) / 500)
            watcher._runs.clear()
            watcher._bytes = 0
        watcher.close()
    detail = "one run of a model of 10 columns, 16 rows, best of 20 x 500"
    return Figure(name="watch_cost_us", value=best * 1e6, unit="us", target=10, detail=detail)


def texts(folder: Path) -> list[Figure]:
    """Random windows of texts, and texts that speak of cards alone, by length and by their pieces of words."""
    import pandas

    from loopworks.infer.watch.traits import of_inputs

    class Rule:
        media = "text"

    raw = pandas.concat([pandas.read_csv(folder / name) for name in ("train.csv", "test.csv")])
    packed = {"text": raw["text"].to_numpy(object)}
    every = of_inputs(Rule(), packed)  # type: ignore[arg-type]
    assert every.points is not None

    def some(at: NDArray[np.intp]) -> Traits:
        assert every.points is not None
        assert every.marks is not None
        numbers = {name: values[at] for name, values in every.numbers.items()}
        return Traits(numbers, {}, every.points[at], every.marks[at])

    def against(at: NDArray[np.intp]) -> Reference:
        found = some(at)
        assert found.points is not None
        scale = Scale.fit(found.points, is_scaled=True)
        points = scale.apply(found.points)[: reference.POINTS]
        return Reference(
            version="",
            inputs=Traits(found.numbers, {}, points, found.marks),
            answers=Traits(),
            split="val",
            scale=scale,
            far=np.zeros(0),
            confidence=None,
        )

    rng = np.random.default_rng(2)
    rounds, window = SPLITS, WINDOW
    false = 0
    for seed in range(rounds):
        order = rng.permutation(len(raw))
        live = some(order[reference.MOST : reference.MOST + window])
        false += drift.compare(against(order[: reference.MOST]), live, Traits(), Drift(), seed=seed).is_drift
    is_card = raw["category"].str.contains("card").to_numpy()
    cards, others = np.flatnonzero(is_card), np.flatnonzero(~is_card)
    shares = (0.05, 0.1, 0.2)
    found = dict.fromkeys(shares, 0)
    tries = 20
    for share in shares:
        for seed in range(tries):
            many = round(window * share)
            order = rng.permutation(others)
            live = some(np.concatenate([rng.choice(cards, many, replace=False), order[-(window - many) :]]))
            found[share] += drift.compare(against(order[: reference.MOST]), live, Traits(), Drift(), seed=seed).is_drift
    low, high = statistics.wilson(false, rounds)
    told = ", ".join(f"{share:.0%} of the window {count / tries:.2f}" for share, count in found.items())
    return [
        Figure(
            name="drift_false_alarms_texts",
            value=false / rounds,
            unit="share",
            target=0.03,
            detail=f"[{low:.3f}, {high:.3f}] of {rounds} random windows of {window} texts (banking77)",
        ),
        Figure(
            name="drift_power_texts_of_cards",
            value=found[0.1] / tries,
            unit="share",
            target=0.8,
            at_least=True,
            detail=f"a topic new in a tenth of {window} texts; {told}; {tries} windows each",
        ),
    ]


def pictures() -> list[Figure]:
    """Scans of digits (scikit-learn's, UCI) as images in use: false alarms, and how soon a change is told.

    A model that learnt from 300 of them answers the others; 800 of these are the reference, windows are of the rest.
    """
    from PIL import Image, ImageFilter, ImageOps
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    found: Any = load_digits()
    scans = [Image.fromarray(np.uint8(one * 15.9)).resize((32, 32)) for one in found.images]

    def looked(some: list[Any]) -> tuple[Traits, Traits]:
        """Columns and points of images, and of the model's answers to them."""
        pixels = np.stack([np.asarray(one.convert("RGB")) for one in some])
        chances = model.predict_proba(flat(some))
        names = [str(at) for at in chances.argmax(axis=1)]
        return _of_images(pixels), Traits({"confidence": chances.max(axis=1)}, {"answer": names})

    def flat(some: list[Any]) -> NDArray[np.float64]:
        return np.stack([np.asarray(one.resize((8, 8)), np.float64).ravel() for one in some])

    rng = np.random.default_rng(0)
    order = rng.permutation(len(scans))
    learnt, used = order[:300], order[300:]
    model = LogisticRegression(max_iter=300).fit(flat([scans[at] for at in learnt]), found.target[learnt])
    changes: dict[str, Callable[[Any], Any]] = {
        "none": lambda one: one,
        "blurred (radius 1)": lambda one: one.filter(ImageFilter.GaussianBlur(1)),
        "inverted": ImageOps.invert,
        "a tenth darker": lambda one: one.point(lambda value: value * 0.9),
        "turned by 10 degrees": lambda one: one.rotate(10),
    }
    seen = {name: looked([change(scans[at]) for at in used]) for name, change in changes.items()}

    def reported(rng: np.random.Generator, change: str, window: int, share: float = 1.0) -> drift.Report:
        at = rng.permutation(len(used))
        before, now = at[:800], at[800 : 800 + window]
        many = round(window * share)
        inputs, answers = (
            drift.joined([_some(seen[change][part], now[:many]), _some(seen["none"][part], now[many:])])
            for part in (0, 1)
        )
        was = _some(seen["none"][0], before)
        assert was.points is not None
        scale = Scale.fit(was.points, is_scaled=True)
        points = scale.apply(was.points)[: reference.POINTS]
        ready = Reference(
            version="",
            inputs=Traits(was.numbers, was.categories, points),
            answers=_some(seen["none"][1], before),
            split="val",
            scale=scale,
            far=np.sort(statistics.nearest(points, points, is_same=True)),
            confidence=None,
        )
        return drift.compare(ready, inputs, answers, Drift(), seed=int(rng.integers(1 << 30)))

    figures = []
    for window in (100, 500):
        reports = [reported(np.random.default_rng(seed), "none", window) for seed in range(SPLITS)]
        false = sum(one.is_drift for one in reports)
        blamed = Counter(column.name for one in reports for column in one.columns if column.is_drift)
        low, high = statistics.wilson(false, SPLITS)
        figures.append(
            Figure(
                name=f"drift_false_alarms_digits_{window}",
                value=false / SPLITS,
                unit="share",
                target=0.03,
                detail=f"[{low:.3f}, {high:.3f}] of {SPLITS} random windows of {window} images; "
                f"by {dict(blamed) or 'none'}",
            )
        )
    rounds = 20
    for change in list(changes)[1:]:
        power = {
            size: sum(reported(np.random.default_rng(n), change, size).is_drift for n in range(rounds)) / rounds
            for size in (50, 100, 200, 500)
        }
        parts = {
            share: sum(reported(np.random.default_rng(n), change, 500, share).is_drift for n in range(rounds)) / rounds
            for share in (0.1, 0.25, 0.5)
        }
        told = ", ".join(f"{size}: {value:.2f}" for size, value in power.items())
        mixed = ", ".join(f"{share:.0%}: {value:.2f}" for share, value in parts.items())
        figures.append(
            Figure(
                name=f"drift_delay_digits_{change.split(' (')[0].replace(' ', '_')}",
                value=next((size for size, value in power.items() if value >= 0.95), 1_000),
                unit="images",
                target=500,
                detail=f"least window told in 95 % of {rounds}; by window {told}; by share of 500 {mixed}",
            )
        )
    return figures


def _some(found: Traits, at: NDArray[np.intp]) -> Traits:
    return Traits(
        {name: values[at] for name, values in found.numbers.items()},
        {name: [values[i] for i in at] for name, values in found.categories.items()},
        None if found.points is None else found.points[at],
    )


def main() -> list[Figure]:
    """All of it; the tables where they are."""
    figures = [paid(), *logged(), *pictures()]
    bikes, credit = SHARED / "bikeshare-hourly" / "bikeshare.csv", SHARED / "credit-default" / "uci_credit_card.csv"
    if bikes.is_file():
        columns, raw = table(bikes)
        seasonless = {name: values for name, values in columns.items() if name != "season"}
        figures.append(alarms("bikeshare", columns, Drift()))
        for season in (1, 2, 3, 4):
            is_in = raw["season"].to_numpy() == season
            figures.append(power(f"bikeshare_season_{season}_against_the_others", seasonless, ~is_in, is_in, 200))
        year = np.array([text[:4] == "2012" for text in raw["datetime"]])
        figures.append(power("bikeshare_2012_against_2011", seasonless, ~year, year, WINDOW))
    if credit.is_file():
        columns, raw = table(credit)
        figures.append(alarms("credit", columns, Drift()))
        is_old = raw["AGE"].to_numpy() >= 45
        ageless = {name: values for name, values in columns.items() if name != "AGE"}
        figures.append(power("credit_the_old_without_their_age", ageless, ~is_old, is_old, WINDOW))
    if (SHARED / "banking77").is_dir():
        figures += texts(SHARED / "banking77")
    return figures


if __name__ == "__main__":
    for figure in main():
        print(figure.line(), flush=True)
