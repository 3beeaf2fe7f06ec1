"""Trees as LightGBM runs them itself: on some machines and models quicker than the ONNX operator, on most slower."""

import importlib.util
import json
import shutil
from dataclasses import dataclass
from typing import Any

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Context
from loopworks.core.errors import Damaged
from loopworks.core.registry import plugins
from loopworks.core.row import FEATURES
from loopworks.optimize import graph
from loopworks.optimize.contracts import Origin

PARTS = "parts.json"
"""Where a tabular recipe says which text files hold its trees, in the order of the graph's operators."""
FILE, REST = "model.json", "rest.onnx"


@plugins.add("optimize.lightgbm")
@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """Trees on LightGBM from its own text files; what comes after them stays on ONNX Runtime."""

    def lacks(self) -> str:
        """LightGBM, or ONNX."""
        missing = [name for name in ("lightgbm", "onnx") if not importlib.util.find_spec(name)]
        return f"package {', '.join(missing)} (pip install 'loopworks[train]')" if missing else ""

    def unfit(self, source: Origin) -> str:
        """Whatever was not grown by LightGBM here."""
        return "" if graph.trees(source.onnx) and PARTS in source.bundle.sha256 else "trees with their text files"

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Copy the trees, and cut the graph behind them.

        Raises: Damaged: the files do not belong together.
        """
        import onnx

        ctx.tick(0.0, "take the trees out of the graph")
        body = json.loads(source.bundle.path(PARTS).read_text(encoding="utf-8"))
        files = [str(member["file"]) for member in body["members"] if member["kind"] == "trees"]
        model = onnx.load(str(source.onnx))
        found = _cut(model)
        if len(found) != len(files):
            raise Damaged(f"a graph must have a tree operator per file ({len(files)}); got {len(found)}")
        for file in files:
            shutil.copyfile(source.bundle.path(file), source.folder / file)
        onnx.checker.check_model(model)
        (source.folder / REST).write_bytes(model.SerializeToString(deterministic=True))
        told = {
            "features": FEATURES,
            "rest_takes_features": any(one.name == FEATURES for one in model.graph.input),
            "trees": [{"file": file, "output": name} for file, name in zip(files, found, strict=True)],
            "rest": REST,
        }
        (source.folder / FILE).write_text(json.dumps(told, sort_keys=True) + "\n", encoding="utf-8")
        names = (FILE, REST, *files)
        return Variant(
            name="lightgbm",
            runtime="lightgbm",
            precision="fp32",
            file=FILE,
            files=names,
            size_bytes=sum((source.folder / name).stat().st_size for name in names),
        )


def _cut(model: Any) -> list[str]:
    """Make the answers of tree operators inputs of the graph, and drop what is of no use then; gives their names."""
    from onnx import TensorProto, helper

    graph_ = model.graph
    found = [node for node in graph_.node if node.domain == graph.TREES]
    names = [node.output[0] for node in found]
    wanted = {output.name for output in graph_.output}
    kept = []
    for node in reversed(graph_.node):
        if node.domain != graph.TREES and wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    inputs = [one for one in graph_.input if one.name in wanted]
    width = {node.output[0]: next(a.i for a in node.attribute if a.name == "n_targets") for node in found}
    inputs += [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch", width[name]]) for name in names]
    constants = [one for one in graph_.initializer if one.name in wanted]
    for field, values in ((graph_.node, kept[::-1]), (graph_.input, inputs), (graph_.initializer, constants)):
        copies = [type(one).FromString(one.SerializeToString()) for one in values]
        del field[:]
        field.extend(copies)
    return names
