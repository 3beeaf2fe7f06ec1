"""Runs in the peer's own environment: see ``yolo.py`` beside it."""

import sys
from pathlib import Path

import numpy as np
from ultralytics import YOLO  # type: ignore[import-not-found]


def main(task: str, model: str, data: str, minutes: str, side: str, listed: str, folder: str) -> None:
    net = YOLO(model, task=task)
    net.train(
        data=data, time=float(minutes) / 60, imgsz=int(side), device="cpu", pretrained=False, seed=0, project=folder,
        name="run", workers=2, plots=False, amp=False,
    )  # fmt: skip
    best = YOLO(Path(folder) / "run" / "weights" / "best.pt")
    paths = Path(listed).read_text(encoding="utf-8").split("\n")
    out: dict[str, object] = {"paths": np.array(paths), "names": np.array([best.names[i] for i in sorted(best.names)])}
    found = [best.predict(path, imgsz=int(side), conf=0.01, device="cpu", verbose=False)[0] for path in paths]
    if task == "classify":
        out["top"] = np.array([one.probs.top1 for one in found])
    elif task == "detect":
        corners = [one.boxes.xyxy.numpy() for one in found]
        out["counts"] = np.array([len(some) for some in corners])
        whole = np.concatenate(corners)
        out["boxes"] = np.concatenate([whole[:, :2], whole[:, 2:] - whole[:, :2]], 1)
        out["scores"] = np.concatenate([one.boxes.conf.numpy() for one in found])
        out["classes"] = np.concatenate([one.boxes.cls.numpy() for one in found]).astype(np.int64)
    else:
        out |= {f"mask_{i}": one.semantic_mask.data.numpy().astype(np.uint8) for i, one in enumerate(found)}
    np.savez(Path(folder) / "said.npz", **out)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
