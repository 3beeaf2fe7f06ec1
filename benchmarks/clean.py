"""Near duplicates among 10,000 images, end to end: files read, decoded, compared, verified, grouped, kept as findings.

The images lie in a workspace already; nothing of them is cached. 9,500 differ, 500 are copies (saved again at another
quality, or scaled to half). imagededup is measured beside where it is installed (``pip install imagededup``).
"""

import importlib
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.figure import Figure

COUNT = 10_000
COPIES = 500


def make(folder: Path, count: int, copies: int) -> None:
    """Photos of a kind (see ``benchmarks.ingest``), 640 x 480, quality 85; the last ``copies`` repeat the first."""
    folder.mkdir(parents=True)

    def one(number: int) -> None:
        source = number if number < count - copies else number - (count - copies)
        rng = np.random.default_rng(source)
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC), np.float32)
        noise = rng.normal(0, 6, (120, 160, 1)).astype(np.float32).repeat(4, axis=0).repeat(4, axis=1)
        image = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
        if number != source and number % 2:
            image = image.resize((320, 240))
        image.save(folder / f"{number:05}.jpg", quality=85 if number == source else 70)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(count)))


def search(space: str, pipe: Any) -> None:
    """In a process of its own, so that the memory peak is that of the search."""
    import loopworks as lw

    with lw.open(space, create=False) as opened:
        dataset = opened.dataset("photos")
        base = peak()
        start, busy = time.perf_counter(), time.process_time()
        report = dataset.clean.check("near-duplicates")
        first, busy = time.perf_counter() - start, time.process_time() - busy
        start = time.perf_counter()
        dataset.clean.check("near-duplicates")
        pairs = {tuple(sorted(one.items)) for one in report.findings}
        pipe.send({
            "seconds": first,
            "cpu": busy,
            "again": time.perf_counter() - start,
            "peak_mb": peak(),
            "before_mb": base,
            "pairs": [[dataset.item(one).name for one in pair] for pair in sorted(pairs)],
        })


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def peer(folder: str, pipe: Any) -> None:
    """imagededup's perceptual hash over the same files."""
    try:
        methods = importlib.import_module("imagededup.methods")
    except ImportError:
        pipe.send(None)
        return
    start = time.perf_counter()
    found = methods.PHash(verbose=False).find_duplicates(image_dir=folder, max_distance_threshold=7)
    pairs = sorted({tuple(sorted((one, other))) for one, others in found.items() for other in others})
    pipe.send({"seconds": time.perf_counter() - start, "peak_mb": peak(), "pairs": [list(pair) for pair in pairs]})


def alone(work: Callable[[str, Any], None], place: str) -> Any:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(place, theirs))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    finally:
        process.join()


def measure(count: int = COUNT, copies: int = COPIES) -> dict[str, Any]:
    """Seconds, memory peak, and how many of the planted copies were found."""
    import loopworks as lw

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make(work / "photos", count, copies)
        with lw.open(work / "space") as space:
            space.dataset("photos", task="object-detection", classes=("thing",)).add(work / "photos", labels="none")
        planted = {(f"{number:05}.jpg", f"{number + count - copies:05}.jpg") for number in range(copies)}
        found: dict[str, Any] = {
            "ours": alone(search, str(work / "space")),
            "imagededup": alone(peer, str(work / "photos")),
        }
    for one in found.values():
        if one is not None:
            pairs = {tuple(sorted(pair)) for pair in one.pop("pairs")}
            one["found"], one["wrong"] = len(pairs & planted), len(pairs - planted)
    return found


def main() -> list[Figure]:
    """The figures against their targets."""
    found = measure()
    ours, other = found["ours"], found["imagededup"]
    beside = f"imagededup {other['seconds']:.1f} s, {other['peak_mb']} MB" if other else "imagededup is not installed"
    detail = (
        f"{ours['found']} of {COPIES} copies found, {ours['wrong']} wrong; peak {ours['peak_mb']} MB; "
        f""
        f"{ours['cpu']:.1f} s of processor time; again {ours['again']:.2f} s; {beside}"
    )
    return [
        Figure(name="near duplicates among 10,000 images", value=ours["seconds"], unit="s", target=5.0, detail=detail),
        Figure(
            name="planted copies that are found", value=ours["found"] / COPIES, unit="share", target=0.99, at_least=True
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(measure()))
