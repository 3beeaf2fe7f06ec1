"""Tabular recipes against AutoGluon in the same time, and plain boosting: ``python -m benchmarks train_tables``.

Each data set is cut once (train 64 %, val 16 %, test 20 %, seed 1). Peers learn from train and val together, ours learn
from train and settle on val what is to be settled. Everybody answers the same test rows; the errors below are 1 - AUC,
or RMSE, with a 95 % bootstrap interval. AutoGluon runs in ``.peers/autogluon`` where ``make peers`` put it, below 10
minutes with its preset medium_quality, else best_quality; moments reach it with their hour beside them, which it does
not take of them itself. Seconds for each: LOOPWORKS_TABLES_S, 60 by default; LOOPWORKS_TABLES names some of the sets.
Nothing was tuned on these test rows.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import Figure

SECONDS = float(os.environ.get("LOOPWORKS_TABLES_S", "60"))
ROOT = Path(__file__).parents[1]
DATA = next((p for p in (ROOT.parent / "shared/data", ROOT / "shared/data") if p.is_dir()), ROOT.parent / "shared/data")
PEER = ROOT / ".peers/autogluon/bin/python"
FILES: Mapping[str, tuple[str, str, str, str, tuple[str, ...]]] = {
    "telco-churn": ("telco_customer_churn.csv", "tabular-classification", "Churn", "customerID", ()),
    "credit-default": ("uci_credit_card.csv", "tabular-classification", "default.payment.next.month", "ID", ()),
    "bikeshare-hourly": ("bikeshare.csv", "tabular-regression", "count", "", ("casual", "registered")),
}
OWN = ("breast_cancer", "diabetes", "digits")
WANTED = frozenset(os.environ.get("LOOPWORKS_TABLES", ",".join([*FILES, *OWN])).split(","))
TARGET = "_answer"
PRESET = "best_quality" if SECONDS >= 600 else "medium_quality"
"""The bagging of best_quality needs time: within 40 s it ended with weak models or none (benchmarks/LOG.md)."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Error on the test rows with its interval, seconds of training, bytes of the model."""

    error: float
    low: float
    high: float
    seconds: float
    size_bytes: int

    def text(self) -> str:
        return (
            f"{self.error:.4f} [{self.low:.4f}, {self.high:.4f}] in {self.seconds:.0f} s, "
            f"{self.size_bytes / 1e6:.2f} MB"
        )


def sets(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and source of each data set, frozen from its CSV file."""
    import loopworks as lw

    with lw.open(folder / "space") as space:
        for name, (file, task, target, key, gone) in FILES.items():
            path = DATA / name / file
            if name in WANTED and path.is_file():
                if gone:
                    path = _without(path, gone, folder / f"{name}.csv")
                yield name, _frozen(space, name, path, task, target, key)
        for name in (name for name in OWN if name in WANTED):
            yield name, _frozen(space, name, *_own(name, folder), "")


def _frozen(space: Any, name: str, path: Path, task: str, target: str, key: str) -> Any:
    table = space.dataset(name.replace("_", "-"), task=task).table
    table.add(path)
    table.choose(target=target, id=key or None)
    table.split(test=0.2, val=0.16, seed=1)
    return table.freeze("bench").source()


def _without(path: Path, gone: tuple[str, ...], out: Path) -> Path:
    import pyarrow.csv as pc

    pc.write_csv(pc.read_csv(path).drop_columns(list(gone)), out)
    return out


def _own(name: str, folder: Path) -> tuple[Path, str, str]:
    import pyarrow as pa
    import pyarrow.csv as pc
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    is_number = name == "diabetes"
    columns = {f"x{i}": x for i, x in enumerate(found.data.T)}
    answer = found.target if is_number else [f"class {i}" for i in found.target]
    pc.write_csv(pa.table({**columns, "target": answer}), folder / f"{name}.csv")
    return folder / f"{name}.csv", f"tabular-{'regression' if is_number else 'classification'}", "target"


def judged(source: Any, answers: Any, seconds: float, size: int) -> Result:
    from loopworks.tasks import scores

    name = source.task.outputs(source.schema)[0].name
    given = {name: np.asarray(answers, np.float32)}
    found = scores.score(source.task, source.targets("test"), given, source.schema, seed=0)
    if "rmse" in found:
        one = found["rmse"]
        return Result(error=one.value, low=one.low, high=one.high, seconds=seconds, size_bytes=size)
    one = found["auc"]
    return Result(error=1 - one.value, low=1 - one.high, high=1 - one.low, seconds=seconds, size_bytes=size)


def ours(source: Any, recipe: str, folder: Path) -> Result:
    from loopworks.core import predictor as predictors
    from loopworks.core.contracts import Context
    from loopworks.tasks.answers import answers
    from loopworks.train import stage

    ctx = Context(seed=0, scratch=folder, report=lambda share, text: None, stopped=lambda: False)
    began = time.perf_counter()
    bundle = stage.train(source, recipe=recipe, budget_s=SECONDS, folder=folder / recipe, ctx=ctx, threads=2)
    seconds = time.perf_counter() - began
    predictor = predictors.load(bundle.variants[0], bundle.folder, bundle.rule)
    found = answers(predictor, source.inputs(bundle.rule, "test"))[bundle.outputs[0].name]
    return judged(source, found, seconds, bundle.variants[0].size_bytes)


def frames(source: Any) -> tuple[Any, Any]:
    """Training (train and val) and test rows as pandas frames with the answer in a column."""
    import pandas as pd

    def one(split: str) -> Any:
        frame = source.rows(split).to_pandas()
        target = source.targets(split)
        frame[TARGET] = target.argmax(axis=1) if source.schema.classes else target[:, 0]
        return frame

    return pd.concat([one("train"), one("val")], ignore_index=True), one("test")


def autogluon(source: Any, folder: Path) -> Result | None:
    if not PEER.exists():
        return None
    train, test = frames(source)
    for frame in (train, test):
        for name in [name for name in frame.columns if frame[name].dtype.kind == "M"]:
            frame[f"{name}.hour"] = frame[name].dt.hour
    train.to_parquet(folder / "train.parquet")
    test.to_parquet(folder / "test.parquet")
    classes = len(source.schema.classes)
    kind = "regression" if not classes else "binary" if classes == 2 else "multiclass"
    script = ROOT / "benchmarks/peers/use_autogluon.py"
    done = subprocess.run(
        [str(PEER), str(script), str(folder), TARGET, str(SECONDS), kind, PRESET],
        capture_output=True, text=True, timeout=SECONDS * 5 + 120, cwd=folder,
    )  # fmt: skip
    if done.returncode:
        print(f"AutoGluon failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return judged(source, np.load(folder / "answers.npy"), told["seconds"], told["size_bytes"])


def histograms(source: Any) -> Result:
    """scikit-learn's HistGradientBoosting as it is."""
    import pickle

    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    train, test = frames(source)
    texts = {name: train[name] for name in train.columns if train[name].dtype.kind not in "fiubM"}
    codes = {name: {v: i for i, v in enumerate(sorted(x.dropna().unique())[:250])} for name, x in texts.items()}
    for frame in (train, test):
        for name in frame.columns:
            if frame[name].dtype.kind == "M":
                stamps = frame.pop(name)
                frame[f"{name}.hour"], frame[f"{name}.weekday"] = stamps.dt.hour, stamps.dt.weekday
                frame[f"{name}.day"] = (stamps - stamps.min()).dt.days
            elif name in codes:
                frame[name] = frame[name].map(codes[name])
    kind = HistGradientBoostingClassifier if source.schema.classes else HistGradientBoostingRegressor
    began = time.perf_counter()
    model = kind(random_state=0).fit(train.drop(columns=TARGET), train[TARGET])
    seconds = time.perf_counter() - began
    rows = test.drop(columns=TARGET)
    found = model.predict_proba(rows) if source.schema.classes else model.predict(rows)[:, None]
    return judged(source, found, seconds, len(pickle.dumps(model)))


def main() -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory(prefix="tables-") as root:
        for name, source in sets(Path(root)):
            folder = Path(root) / name
            folder.mkdir()
            plain = histograms(source)
            quick, stack = ours(source, "lightgbm", folder), ours(source, "stacked", folder)
            peer = autogluon(source, folder)
            best = peer or plain
            listed = {"stacked": stack, "lightgbm": quick, "HistGradientBoosting": plain, "AutoGluon": peer}
            figures.append(
                Figure(
                    name=f"error of a stack on {name} over {'AutoGluon' if peer else 'HistGradientBoosting'}",
                    value=round(stack.error / best.error, 4),
                    unit="ratio",
                    target=1.05,
                    detail="; ".join(f"{who} {one.text() if one else 'not run'}" for who, one in listed.items()),
                )
            )
            print(figures[-1].line(), flush=True)
    return figures
