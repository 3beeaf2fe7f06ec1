"""How fast jobs start: ``python benchmarks/jobs.py`` prints one JSON line; medians of five, in seconds.

``start_warm_s``: from the call of submit to the first line of the step, worker and fork server warm (budget 1 s).
``start_cold_s``: the same where no worker runs yet. ``submit_s``: the call of submit alone (budget 0.1 s).
``bare_s``: starting ``python -c pass``, as a measure of the machine. ``heavy_warm_s``: start_warm_s once torch and the
like are imported ahead, with ``heavy_cold_s`` for a child that imports torch itself.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loopworks.jobs import Jobs  # noqa: E402
from loopworks.jobs.forks import WARM  # noqa: E402

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heavy", action="store_true", help="also with torch imported ahead; takes half a minute")
    arguments = parser.parse_args()
    figures = {"bare_s": median(bare), "start_cold_s": median(start_cold)}
    with tempfile.TemporaryDirectory() as folder, Jobs(Path(folder), preload=STEPS, warm=()) as jobs:
        start(jobs)
        figures |= {"start_warm_s": median(lambda: start(jobs)), "submit_s": median(lambda: submit(jobs))}
    if arguments.heavy:
        figures |= heavy()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
