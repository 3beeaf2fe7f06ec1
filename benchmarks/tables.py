"""Ten million rows: add, add again, profile, split and freeze, first page; memory peak of the process beside each.

``LOOPWORKS_ROWS`` sets another number of rows.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.figure import Figure

CHUNK = 1_000_000

CHILD = """
import json, resource, sys, time
import loopworks.builtins
from loopworks.data.stage import create_dataset
from loopworks.data.tables.table import Table
from loopworks.store.home import create_home
from pathlib import Path

folder, source = Path(sys.argv[1]), sys.argv[2]
home = create_home(folder / "w")
made = create_dataset(home, "rows", "tabular-classification")
table = Table(home, made.id, "rows", "tabular-classification")

def timed(name, run):
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([name, seconds, peak]), flush=True)
    return result

assert timed("add", lambda: table.add(source)).added == int(sys.argv[3])
assert timed("add again", lambda: table.add(source)).added == 0
table.choose(target="churned")
found = timed("profile", table.profile)
assert found.rows == int(sys.argv[3]), found.rows
timed("split", table.split)
timed("freeze", table.freeze)
timed("first page", lambda: table.page(limit=50))
timed("sorted page", lambda: table.page(sort="amount", descending=True, limit=50))
"""


def write_source(path: Path, rows: int) -> None:
    """A CSV of six columns: number, amount, city, day, age, yes or no."""
    rng = np.random.default_rng(0)
    cities = np.array(["Oslo", "Rome", "Paris", "Bern", "Kyiv", "Lima", "Cairo", "Quito"])
    days = np.array([f"2024-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29)])
    with path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            block = pa.table({
                "customer": pa.array(np.arange(start, start + count)),
                "amount": pa.array(np.round(rng.gamma(2.0, 40.0, count), 2)),
                "city": pa.array(cities[rng.integers(0, len(cities), count)]),
                "day": pa.array(days[rng.integers(0, len(days), count)]),
                "age": pa.array(rng.integers(18, 95, count)),
                "churned": pa.array(np.array(["no", "yes"])[(rng.random(count) < 0.2).astype(int)]),
            })
            csv.write_csv(block, file, csv.WriteOptions(include_header=start == 0, quoting_style="needed"))


def main() -> list[Figure]:
    rows = int(os.environ.get("LOOPWORKS_ROWS", "10000000"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "rows.csv"
        write_source(source, rows)
        size = source.stat().st_size
        command = [sys.executable, "-c", CHILD, str(folder), str(source), str(rows)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    told = [json.loads(line) for line in run.stdout.splitlines()]
    targets = {"add": 120.0, "add again": 90.0, "profile": 90.0, "split": 90.0, "freeze": 2.0}
    figures = [
        Figure(
            name=f"table of {rows:,} rows: {what}",
            value=seconds,
            unit="s",
            target=targets.get(what, 30.0),
            detail=f"peak {peak:.0f} MB so far, CSV of {size / 1e6:.0f} MB",
        )
        for what, seconds, peak in told
    ]
    highest = max(peak for _, _, peak in told)
    figures.append(Figure(name=f"table of {rows:,} rows: memory peak", value=highest, unit="MB", target=1500))
    return figures
