"""Changing an ONNX graph so that it takes pixels and gives chances; works on the graph that it is given."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.core.values import Fit, ImageRule

OURS = "loopworks/"
PIXELS = "image"


def image_rule(model: Any, name: str, size: int, fit: Fit) -> ImageRule:
    """The rule of a graph that takes one batch of images, as floats or as bytes, channels first or last.

    Raises: Invalid: it takes something else; the error says what.
    """
    shape = _input_shape(model, name)
    at = (1, 2) if shape[3] == 3 else (2, 3)
    height, width = (size or shape[axis] for axis in at)
    for axis, given in zip(at, (height, width), strict=True):
        if not given:
            raise Invalid(f"image_size of {name}", "given, as the file takes any", 0)
        if shape[axis] and shape[axis] != given:
            raise Invalid(f"image_size of {name}", f"{shape[axis]} (it is fixed)", given)
    return ImageRule(height=height, width=width, fit=fit)


def output(model: Any, name: str, classes: int, wanted: str) -> str:
    """Name of the output whose shape is (items, classes)."""
    found = {one.name: _shape(one) for one in model.graph.output}
    fits = [key for key, shape in found.items() if len(shape) == 2 and shape[1] in (0, classes)]
    if wanted and wanted not in found:
        raise Invalid(f"output of {name}", f"one of {', '.join(found)}", wanted)
    fits = [key for key in fits if not wanted or key == wanted]
    if len(fits) != 1:
        told = ", ".join(f"{key} {shape}" for key, shape in found.items())
        raise Invalid(f"outputs of {name}", f"one of shape (items, {classes}), a column per class", told)
    return f"{OURS}{fits[0]}"


def before(model: Any, rule: ImageRule, mean: Sequence[float], std: Sequence[float]) -> None:
    """Let the graph take uint8 pixels ``(items, height, width, 3)``; all its own names get a prefix first."""
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper

    shape = _input_shape(model, "the model")
    kind = next(one for one in model.graph.input if one.name not in _constants(model)).type.tensor_type.elem_type
    compose.add_prefix(model, OURS, inplace=True)
    given = next(one for one in model.graph.input if one.name not in _constants(model))
    wanted = given.name
    nodes, last = [], PIXELS
    if kind != TensorProto.UINT8:
        for key, values in (("mean", mean), ("std", std)):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), key))
        nodes += [
            helper.make_node("Cast", [PIXELS], ["pixels_float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels_float", "mean"], ["pixels_centred"]),
            helper.make_node("Div", ["pixels_centred", "std"], ["pixels_scaled"]),
        ]
        last = "pixels_scaled"
        if kind != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [last], ["pixels_cast"], to=kind))
            last = "pixels_cast"
    if shape[3] != 3:
        nodes.append(helper.make_node("Transpose", [last], ["pixels_turned"], perm=[0, 3, 1, 2]))
        last = "pixels_turned"
    nodes.append(helper.make_node("Identity", [last], [wanted]))
    taken = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *taken])
    kept = [one for one in model.graph.input if one.name != wanted]
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", rule.height, rule.width, 3])
    del model.graph.input[:]
    model.graph.input.extend([pixels, *kept])
    assert isinstance(model, onnx.ModelProto)


def after(model: Any, found: str, name: str, function: str, columns: Sequence[int] | None) -> None:
    """Let the graph give one output called ``name``: chances, the columns in the wanted order."""
    from onnx import TensorProto, helper, numpy_helper

    last = f"{OURS}answer"
    nodes = [helper.make_node("Cast", [found], [last], to=TensorProto.FLOAT)]
    if function:
        node = helper.make_node(function, [last], [f"{OURS}chances"])
        if function == "Softmax":
            node.attribute.append(helper.make_attribute("axis", -1))
        nodes.append(node)
        last = f"{OURS}chances"
    count: int | str = "classes"
    if columns is not None:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(columns, np.int64), f"{OURS}columns"))
        nodes.append(helper.make_node("Gather", [last, f"{OURS}columns"], [f"{OURS}ordered"], axis=1))
        last, count = f"{OURS}ordered", len(columns)
    nodes.append(helper.make_node("Identity", [last], [name]))
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count]))


def raw(model: Any, rule: ImageRule, found: str) -> NDArray[Any]:
    """The graph's own answer for a few images of noise, of one colour and of none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    rng = np.random.default_rng(0)
    shape = (rule.height, rule.width, 3)
    flat = [np.full(shape, value, np.uint8) for value in (0, 128, 255)]
    pixels = np.stack([*flat, *rng.integers(0, 256, (5, *shape), dtype=np.uint8)])
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run([found], {PIXELS: pixels})[0], np.float64)
    except Exception as error:  # ONNX Runtime raises a class of its own per fault, all of them private
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid("model to add", "one that answers a batch of images", first[:200]) from None


def _input_shape(model: Any, name: str) -> list[int]:
    """Of the only input; 0 where an axis may be of any length."""
    from onnx import TensorProto

    found = [one for one in model.graph.input if one.name not in _constants(model)]
    told = ", ".join(f"{one.name} {_shape(one)}" for one in found) or "none"
    expected = "one batch of images: (items, 3, height, width) or (items, height, width, 3)"
    if len(found) != 1:
        raise Invalid(f"inputs of {name}", expected, told)
    shape = _shape(found[0])
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise Invalid(f"input of {name}", expected, told, "0 is an axis of any length")
    if shape[0] != 0:
        raise Invalid(f"batch axis of {name}", "of any length", shape[0], "export it with a free batch axis")
    kind = found[0].type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8):
        raise Invalid(f"input of {name}", "of float32, float16 or uint8", TensorProto.DataType.Name(kind))
    return shape


def _constants(model: Any) -> set[str]:
    return {one.name for one in model.graph.initializer}


def _shape(value: Any) -> list[int]:
    return [int(one.dim_value) if one.HasField("dim_value") else 0 for one in value.type.tensor_type.shape.dim]
