"""AutoGluon: learn a table in a time limit, answer the test rows.

Arguments: folder with train.parquet and test.parquet, target column, seconds, kind (binary, multiclass or regression).
Writes answers.npy there and prints one JSON line.
"""

import json
import logging
import sys
import time
from pathlib import Path

logging.disable(logging.WARNING)
folder, target, limit, kind = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from autogluon.tabular import TabularPredictor  # noqa: E402

train, test = (pd.read_parquet(folder / f"{split}.parquet") for split in ("train", "test"))
metric = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}[kind]
began = time.perf_counter()
made = TabularPredictor(label=target, problem_type=kind, eval_metric=metric, path=str(folder / "model"), verbosity=0)
made.fit(train, time_limit=limit, presets="best_quality", num_cpus=2, dynamic_stacking=False)
seconds = time.perf_counter() - began
rows = test.drop(columns=[target])
if kind == "regression":
    answers = made.predict(rows).to_numpy()[:, None]
else:
    chances = made.predict_proba(rows)
    answers = chances[sorted(chances.columns)].to_numpy()
np.save(folder / "answers.npy", answers)
size = sum(path.stat().st_size for path in (folder / "model").rglob("*") if path.is_file())
print(json.dumps({"seconds": seconds, "size_bytes": size}))
