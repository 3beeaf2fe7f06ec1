"""Our server in a process of its own: ``python benchmarks/serving/ours.py FOLDER THREADS`` prints its URL."""

import sys
from pathlib import Path

import loopworks as lw
from loopworks.server.run import serve

if __name__ == "__main__":
    folder, threads = sys.argv[1:]
    with lw.open(Path(folder), create=False, threads=int(threads)) as space:
        serve(space, port=0, ready=lambda url: print(url, flush=True))
