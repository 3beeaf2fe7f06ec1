"""Run by the tests inside a bundle, in a process where only what an edge machine has may be imported."""

import importlib.abc
import json
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

ALLOWED = {"numpy", "PIL", "onnxruntime", "loopworks", "loopworks_edge"}


class Fence(importlib.abc.MetaPathFinder):
    """Finds no other package, as if none were installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if top in ALLOWED or top in sys.stdlib_module_names or top.startswith(("_sysconfigdata", "_distutils")):
            return None
        if PathFinder.find_spec(top, None) is None:
            return None  # it is not there anyway
        raise ModuleNotFoundError(f"No module named {name!r} (fenced)", name=top)


def main(folders: Sequence[str]) -> None:
    sys.meta_path.insert(0, Fence())
    import numpy as np

    from loopworks_edge import model

    assert Path(model.__file__).is_relative_to(Path.cwd()), model.__file__
    found: dict[str, Any] = {}
    for folder in folders:
        contents = json.loads(Path(folder, "../contents.json").read_text(encoding="utf-8"))
        edge = model.open(Path(folder))
        asked = [bytes.fromhex(one) if edge.media == "image" else one for one in contents]
        predictor = edge.load(threads=1)
        if edge.manifest.is_chain:
            said = predictor.predict({"file": np.array(asked, object)})["answer"]
            answers, problems = edge.predict(predictor, asked)
            found["chain"] = {
                "tensors": [json.loads(one) for one in said],
                "answers": answers,
                "problems": [problem.to_json() for problem in problems],
            }
            predictor.close()
            continue
        tensors = predictor.predict(edge.bundle.rule.pack(asked))
        answers, problems = edge.predict(predictor, asked)
        found[edge.bundle.task] = {
            "tensors": {name: np.ascontiguousarray(one).tobytes().hex() for name, one in tensors.items()},
            "answers": answers,
            "problems": [problem.to_json() for problem in problems],
        }
        predictor.close()
    standard = Path(sysconfig.get_path("stdlib"))
    loaded = {name.partition(".")[0] for name, module in sys.modules.items() if _file(module, standard)}
    print(json.dumps({"found": found, "loaded": sorted(loaded)}))


def _file(module: ModuleType, standard: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and (not Path(file).is_relative_to(standard) or "site-packages" in file)


if __name__ == "__main__":
    main(sys.argv[1:])
