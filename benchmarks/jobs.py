"""How fast jobs start: ``python -m benchmarks.jobs [--heavy]`` prints one JSON line; medians of five, in seconds.

``start_warm_s``: from the call of submit to the first line of the step, worker and fork server warm (budget 1 s).
``start_cold_s``: the same where no worker runs yet. ``submit_s``: the call of submit alone (budget 0.1 s).
``bare_s``: starting ``python -c pass``, as a measure of the machine. ``heavy_warm_s``: start_warm_s once torch and the
like are imported ahead, with ``heavy_cold_s`` for a child that imports torch itself.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figure import Figure
from loopworks.jobs import Jobs
from loopworks.jobs.forks import WARM

STEPS = ("tests.jobs.steps",)
TIMES = 5


def median(measure: Callable[[], float]) -> float:
    return round(statistics.median(measure() for _ in range(TIMES)), 4)


def start(jobs: Jobs) -> float:
    """Seconds from the call of submit to the first line of the step."""
    begin = time.time()
    return float(jobs.run("test-first-line", {})["at"]) - begin


def start_cold() -> float:
    with tempfile.TemporaryDirectory() as folder, Jobs(Path(folder), preload=STEPS, warm=()) as jobs:
        return start(jobs)


def submit(jobs: Jobs) -> float:
    begin = time.perf_counter()
    job_id = jobs.submit("test-first-line", {})
    took = time.perf_counter() - begin
    jobs.follow(job_id)
    return took


def bare() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begin


def heavy() -> dict[str, float]:
    """Start of a step that uses torch: first while the imports still run ahead, then after them."""
    with tempfile.TemporaryDirectory() as folder, Jobs(Path(folder), preload=STEPS, warm=WARM) as jobs:
        jobs.run("test-first-line", {})
        begin = time.perf_counter()
        jobs.run("test-torch", {})
        cold = time.perf_counter() - begin
        while not jobs.run("test-torch", {})["was_there"]:
            time.sleep(0.5)
        return {
            "heavy_cold_s": round(cold, 4),
            "heavy_ready_s": round(time.perf_counter() - begin, 4),
            "heavy_warm_s": median(lambda: start(jobs)),
        }


def measure(*, is_heavy: bool = False) -> dict[str, float]:
    """All figures, in seconds."""
    figures = {"bare_s": median(bare), "start_cold_s": median(start_cold)}
    with tempfile.TemporaryDirectory() as folder, Jobs(Path(folder), preload=STEPS, warm=()) as jobs:
        start(jobs)
        figures |= {"start_warm_s": median(lambda: start(jobs)), "submit_s": median(lambda: submit(jobs))}
    return figures | heavy() if is_heavy else figures


def main() -> list[Figure]:
    """The figures against their targets."""
    found = measure()
    bare_text = f"median of {TIMES}; starting an idle interpreter took {found['bare_s']} s"
    return [
        Figure(name="job: start, warm worker", value=found["start_warm_s"], unit="s", target=1.0, detail=bare_text),
        Figure(name="job: submit", value=found["submit_s"], unit="s", target=0.1, detail=bare_text),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(is_heavy="--heavy" in sys.argv)))
