"""How fast images reach the training loop: against torchvision's ImageFolder and DataLoader with as many workers.

    python -m benchmarks loading

1,000 JPEGs of 640 x 480 become batches of 32 normalized float images of 96 x 96. Ours decodes each image once, with two
threads, into an array on disk that later epochs map into memory; the peer decodes anew in every epoch, in two worker
processes that stay. The peer resizes as we do (bilinear, antialiased) and is given JPEG decoding at reduced size too
(``draft``), so that the same work is compared. Both are asked in turn; the median ratio counts.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from benchmarks.ingest import make
from loopworks.core.values import ImageRule
from loopworks.data.stage import create_dataset
from loopworks.store.home import create_home

IMAGES, SIDE, BATCH, EPOCHS, WORKERS, TURNS = 1000, 96, 32, 3, 2, 3


def drafted(path: str) -> Any:
    """An image decoded at the smallest JPEG scale that is not below the wanted size, as our rule does."""
    from PIL import Image

    image = Image.open(path)
    image.draft("RGB", (SIDE, SIDE))
    return image.convert("RGB")


def ours(version: Any) -> list[float]:
    """Seconds of each epoch; the first decodes."""
    import torch

    from loopworks.train.augment import Augment, Change
    from loopworks.train.batches import Batches, Split

    middle = torch.full((3,), 127.0)
    augment = Augment(Change(), middle, middle, torch.device("cpu"))
    took = []
    began = time.perf_counter()
    pixels = version.pixels(ImageRule(height=SIDE, width=SIDE), "train", threads=WORKERS)
    split = Split.of(pixels, version.targets("train"))
    batches = Batches(split, BATCH, 0)
    for epoch in range(EPOCHS):
        batches.epoch = epoch
        seen = sum(len(augment.normalize(images)) for images, _ in batches)
        assert seen == len(split)
        took.append(time.perf_counter() - began)
        began = time.perf_counter()
    return took


def peer(folder: Path) -> list[float]:
    """The same by torchvision."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = transforms.Compose([
        transforms.Resize((SIDE, SIDE), antialias=True),
        transforms.ToTensor(),
        transforms.Normalize((0.5,) * 3, (0.5,) * 3),
    ])
    found = ImageFolder(str(folder), steps, loader=drafted)
    loader = DataLoader(found, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    took = []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        seen = sum(len(images) for images, _ in loader)
        assert seen == IMAGES
        took.append(time.perf_counter() - began)
    return took


def main() -> list[Figure]:
    first, whole, later = [], [], []
    with tempfile.TemporaryDirectory() as place:
        make(Path(place) / "photos", IMAGES)
        for turn in range(TURNS):
            with create_home(Path(place) / f"space-{turn}") as home:
                dataset = create_dataset(home, "photos", "image-classification")
                dataset.add(Path(place) / "photos", by="reference")
                dataset.assign([item.id for item in dataset.items(limit=IMAGES)], "train")
                version = dataset.freeze()
                mine = ours(version)
                theirs = peer(Path(place) / "photos")
            first.append(theirs[0] / mine[0])
            whole.append(sum(theirs) / sum(mine))
            later.append(IMAGES / mine[-1])
    detail = f"{IMAGES} JPEG of 640 x 480 to {SIDE} x {SIDE}, {WORKERS} workers each, median of {TURNS}"
    return [
        Figure(
            name="loading, first epoch, over ImageFolder and DataLoader", value=round(statistics.median(first), 3),
            unit="ratio", target=1.0, at_least=True, detail=detail,
        ),
        Figure(
            name=f"loading, {EPOCHS} epochs, over ImageFolder and DataLoader",
            value=round(statistics.median(whole), 3), unit="ratio", target=1.0, at_least=True,
            detail=f"{detail}; later epochs {statistics.median(later):,.0f} images/s",
        ),
    ]  # fmt: skip
