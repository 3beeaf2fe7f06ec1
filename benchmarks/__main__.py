"""``python -m benchmarks [NAME ...]``: run the measurements and print one line each against its target.

Every module of this folder with a ``main() -> list[Figure]`` is a measurement.
"""

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import benchmarks
from benchmarks.figure import Figure


def main(names: list[str]) -> int:
    """Run the named measurements, or all; exit code 1 where a target is missed."""
    found = sorted(
        m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in ("__main__", "figure", "peers")
    )
    unknown = [name for name in names if name not in found]
    if unknown:
        print(f"error: a measurement must be one of {', '.join(found)}; got {', '.join(unknown)}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    for name in names or found:
        for figure in importlib.import_module(f"benchmarks.{name}").main():
            figures.append(figure)
            print(figure.line(), flush=True)
    out = Path(__file__).parent / "results" / "latest.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps([figure.to_json() for figure in figures], indent=2) + "\n", encoding="utf-8")
    return 1 if any(not figure.is_met for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
