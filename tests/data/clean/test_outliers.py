"""Outliers by the distance to the nearest neighbours."""

import numpy as np

from loopworks.data.clean import outliers


def test_planted_outliers_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (400, 8)).astype(np.float32)
    rows[[7, 90]] += 30
    rows[7, 0] += 60
    assert outliers.far(outliers.distances(rows)).tolist() == [7, 90]


def test_distances_are_those_of_hand_and_few_rows_are_no_fault() -> None:
    line = np.array([[0.0], [1.0], [3.0]], np.float32)
    assert outliers.distances(line, k=1).tolist() == [1, 1, 2]
    assert outliers.distances(line[:1]).tolist() == [0]
    assert outliers.far(np.zeros(0)).tolist() == []
