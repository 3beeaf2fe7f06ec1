"""How long Loopworks takes to start: fresh processes, against an interpreter that does nothing.

``python -m benchmarks.start`` prints one JSON line; ``make bench`` takes ``main``.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figure import Figure

RUNS = 5
SOURCES = Path(__file__).parents[1] / "src"
COMMANDS = {
    "floor": ["-c", "pass"],
    "import": ["-c", "import loopworks"],
    "help": ["-c", "import sys; sys.argv = ['loopworks', '--help']; from loopworks.cli.main import main; main()"],
}
TARGETS = {"import": 0.1, "help": 0.3}


def measure() -> dict[str, float]:
    """Median wall time of each command in seconds; the turns are mixed, so that load falls on all alike."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCES), str(SOURCES.parent)])}
    # Users run compiled files: without them every start would compile the package anew.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for turn in range(RUNS + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first turn reads the files from the disk
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> list[Figure]:
    """Both starts against their targets."""
    seconds = measure()
    return [
        Figure(
            name=f"start: {'import loopworks' if name == 'import' else 'loopworks --help'}",
            value=seconds[name],
            unit="s",
            target=target,
            detail=f"median of {RUNS}; bare interpreter {seconds['floor']:.3f} s, "
            f"ratio {seconds[name] / seconds['floor']:.1f}",
        )
        for name, target in TARGETS.items()
    ]


if __name__ == "__main__":
    print(json.dumps({name: round(value, 4) for name, value in measure().items()}))
