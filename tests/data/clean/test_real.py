"""Descriptors and checks on real photos: litter on a board, and frames of traffic cameras."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from loopworks.core import image
from loopworks.data.clean import confident, folds, near
from loopworks.data.features.contract import Descriptor
from loopworks.data.features.images import FACTS, Look, Near

SHARED = Path(__file__).parents[4] / "shared" / "data"
pytestmark = [pytest.mark.shared, pytest.mark.slow]


def describe(kind: Descriptor, files: list[Path]) -> NDArray[np.float32]:
    assert kind.rule is not None
    rows = []
    for at in range(0, len(files), 16):
        batch = [image.decode(path.read_bytes(), kind.rule, path.name) for path in files[at : at + 16]]
        rows.append(kind.describe(np.stack(batch)))
    return np.concatenate(rows)


def nearest(rows: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    alike = rows @ rows.T
    np.fill_diagonal(alike, -9)
    return np.argsort(-alike, axis=1)[:, :k]


def test_litter_is_found_by_its_look_and_wrong_labels_by_confident_learning() -> None:
    with (SHARED / "trashnet" / "labels.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    truth = np.unique([row["label"] for row in found], return_inverse=True)[1].astype(np.int64)
    rows = describe(Look(), [SHARED / "trashnet" / row["file"] for row in found])[:, len(FACTS) :]
    assert (truth[nearest(rows, 1)[:, 0]] == truth).mean() > 0.68  # measured: 0.72; chance is 0.17
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(truth), len(truth) // 10, replace=False)
    given = truth.copy()
    given[wrong] = (given[wrong] + rng.integers(1, 6, len(wrong))) % 6
    suspects = confident.suspects(given, folds.out_of_fold(rows, given, 6))
    hit = np.isin(suspects.at, wrong)
    assert hit.sum() / len(wrong) > 0.7  # measured: 0.78
    assert hit.mean() > 0.3  # measured: 0.39; a tenth is wrong
    assert hit[:40].mean() > hit.mean()  # the worst come first


def test_the_next_frame_of_a_camera_is_found_and_frames_far_apart_are_no_copies() -> None:
    files = sorted((SHARED / "traffic-lights" / "JPEGImages").glob("*.jpg"))
    number = np.array([int(re.sub(r"\D", "", path.stem)) for path in files])
    rows = describe(Look(), files)[:, len(FACTS) :]
    assert (np.abs(number[nearest(rows, 5)] - number[:, None]) <= 2).any(axis=1).mean() > 0.9  # measured: 0.95
    pairs = near.find(describe(Near(), files).astype(np.uint8))
    assert len(pairs.left) > 300
