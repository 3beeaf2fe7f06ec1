"""What peers take for the same work, each in its own environment; see ``benchmarks/data.py``.

``make peers`` makes the environments under ``.peers/`` (they are no part of the project). A peer that is not installed
is left out of the run, and the run says so.
"""
