"""Models from elsewhere: ONNX files in the forms that people have, and folders of timm and transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.train.marked import Marked, marked

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.infer.onnxruntime import OnnxRuntime
from loopworks.testing import context
from loopworks.train.adopt import Signature, adopt, signature

pytestmark = pytest.mark.train
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)


def weights(size: int = 12) -> NDArray[np.float32]:
    """Of a classifier that looks for brightness in three bands, for images ``(3, size, size)``."""
    found = np.zeros((3, 3, size, size), np.float32)
    for place in range(3):
        found[place, :, place * size // 3 : (place + 1) * size // 3] = 4 / size**2
    return found


def file(
    path: Path,
    *,
    first: bool = True,
    function: str = "",
    batch: int | str = "n",
    kind: int = TensorProto.FLOAT,
    classes: int = 3,
    size: int = 12,
    more: bool = False,
) -> Path:
    """A linear classifier as other tools write it: channels first or last, logits or chances."""
    values = weights(size)[:classes]
    if not first:
        values = values.transpose(0, 2, 3, 1)
    shape: list[Any] = [batch, 3, size, size] if first else [batch, size, size, 3]
    nodes = [
        helper.make_node("Cast", ["pixel_values"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["raw"]),
        helper.make_node(function or "Identity", ["raw"], ["output"]),
    ]
    if function == "Softmax":
        nodes[-1].attribute.append(helper.make_attribute("axis", -1))
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, classes])]
    if more:
        outputs.append(helper.make_tensor_value_info("raw", TensorProto.FLOAT, [batch, classes]))
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("pixel_values", kind, shape)],
        outputs,
        [numpy_helper.from_array(values.reshape(classes, -1).T.copy(), "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the classifier must say of pixels, worked out without its graph."""
    scaled = (pixels.astype(np.float64) - MEAN) / STD
    logits = np.einsum("nhwk,ckhw->nc", scaled, weights(pixels.shape[1]))
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


def take(path: Path, folder: Path, source: Marked | None = None, **more: Any) -> Bundle:
    task = plugins.get("task.image-classification")
    given: dict[str, Any] = {"signature": Signature(mean=MEAN, std=STD), **more}
    return adopt(path, task=task, source=source, folder=folder / "bundle", ctx=context(folder / "s"), **given)


def ask(bundle: Bundle, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    predictor = OnnxRuntime().load(bundle.path("model.onnx"), threads=1, precision="fp32")
    found = predictor.predict({"image": pixels})["scores"]
    predictor.close()
    return found


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "logits"),
        ({"first": False}, "logits"),
        ({"function": "Softmax"}, "chances"),
        ({"kind": TensorProto.FLOAT16}, "logits"),
        ({"more": True, "function": "Softmax"}, "chances"),
    ],
)
def test_a_file_of_any_layout_gives_chances_from_pixels(tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
    source = marked(size=12)
    told = Signature(mean=MEAN, std=STD, output="output" if "more" in changes else "")
    bundle = take(file(tmp_path / "theirs.onnx", **changes), tmp_path, source, signature=told)
    pixels = source.images["test"][:5]
    tolerance = 1e-3 if changes.get("kind") == TensorProto.FLOAT16 else 1e-5
    np.testing.assert_allclose(ask(bundle, pixels), expected(pixels), atol=tolerance)
    assert bundle.metrics["test"]["accuracy"].value == 1.0
    assert bundle.recipe == "import.onnx"
    assert {"evaluation.json", "card.md", "model.onnx"} == set(bundle.sha256)


def test_a_file_of_bytes_is_taken_as_it_is(tmp_path: Path) -> None:
    source = marked(size=12)
    path = file(tmp_path / "theirs.onnx", first=False, kind=TensorProto.UINT8)
    bundle = take(path, tmp_path, source, signature=Signature(answers="logits"))
    assert bundle.metrics["test"]["accuracy"].value == 1.0


def test_classes_in_another_order_are_brought_into_the_versions(tmp_path: Path) -> None:
    source = marked(size=12)
    turned = marked(size=12).schema.classes[::-1]
    bundle = take(file(tmp_path / "theirs.onnx"), tmp_path, source, classes=turned)
    assert bundle.schema == source.schema
    pixels = source.images["test"][:5]
    np.testing.assert_allclose(ask(bundle, pixels), expected(pixels)[:, ::-1], atol=1e-5)
    with pytest.raises(Invalid, match="classes of the model must be those of the version; got a difference in other"):
        take(file(tmp_path / "theirs.onnx"), tmp_path / "x", source, classes=("place 0", "place 1", "other"))


def test_without_a_version_it_is_tried_and_not_scored(tmp_path: Path) -> None:
    bundle = take(file(tmp_path / "theirs.onnx"), tmp_path, classes=("a", "b", "c"))
    assert (bundle.version, dict(bundle.metrics)) == ("", {})
    assert any("how good it is is not known" in note for note in bundle.notes)
    with pytest.raises(Invalid, match="classes must be given"):
        take(file(tmp_path / "theirs.onnx"), tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 1}, "batch axis of theirs.onnx must be of any length; got 1"),
        (
            {"classes": 2},
            r"outputs of theirs.onnx must be one of shape \(items, 3\), a column per class; got output \[0, 2\]",
        ),
        ({"kind": TensorProto.INT64}, "input of theirs.onnx must be of float32, float16 or uint8; got INT64"),
        ({"more": True}, "outputs of theirs.onnx must be one of shape"),
    ],
)
def test_a_file_that_does_not_fit_says_what_was_found(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        take(file(tmp_path / "theirs.onnx", **changes), tmp_path, marked(size=12))
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle*"))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    (tmp_path / "empty").mkdir()
    for path, words in (("x.onnx", "an ONNX model"), ("nope", "model to add"), ("empty", "config.json")):
        with pytest.raises(Invalid, match=words):
            take(tmp_path / path, tmp_path, classes=("a", "b"))
    with pytest.raises(Invalid, match="image_size of theirs.onnx must be 12"):
        take(file(tmp_path / "theirs.onnx"), tmp_path, marked(size=12), signature=Signature(image_size=16))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": "1,2"}, "mean must be three numbers, for red, green and blue; got 1,2"),
        ({"std": "0,0,0"}, "std must be three numbers in"),
        ({"fit": "squeeze"}, "fit must be stretch, crop, pad; got squeeze"),
        ({"image_size": -1}, "image_size must be between"),
        ({"colour": 1}, "signature must be of known fields; got colour"),
    ],
)
def test_a_signature_out_of_range_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        signature(given)
    assert signature({"mean": "1, 2, 3"}).mean == (1.0, 2.0, 3.0)


def timm_folder(folder: Path) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    save_file(network.state_dict(), folder / "model.safetensors")
    told = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 32, 32], "crop_mode": "squash"}
    body = {"architecture": "test_resnet", "num_classes": 3, "label_names": list("abc"), "pretrained_cfg": told}
    (folder / "config.json").write_text(json.dumps(body), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_folder_of_timm_answers_as_its_network(tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import load_file

    folder = timm_folder(tmp_path / "theirs")
    bundle = take(folder, tmp_path, signature=Signature())
    assert bundle.schema.classes == ("a", "b", "c")
    network = timm.create_model("test_resnet", num_classes=3).eval()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    x = (torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2
    with torch.inference_mode():
        wanted = network(x).softmax(1).numpy()
    np.testing.assert_allclose(ask(bundle, pixels), wanted, atol=1e-4)
    (folder / "config.json").write_text('{"architecture": "nope", "num_classes": 3}', encoding="utf-8")
    with pytest.raises(Invalid, match="architecture in theirs must be a model of timm; got nope"):
        take(folder, tmp_path / "again", signature=Signature())


@pytest.mark.slow
def test_a_folder_of_transformers_answers_as_its_network(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2},
    )  # fmt: skip
    network = ViTForImageClassification(config).train(False)
    network.save_pretrained(tmp_path / "theirs")
    told = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")
    bundle = take(tmp_path / "theirs", tmp_path, signature=Signature())
    assert bundle.schema.classes == ("a", "b", "c")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    x = (torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        wanted = network(pixel_values=x).logits.softmax(1).numpy()
    np.testing.assert_allclose(ask(bundle, pixels), wanted, atol=1e-4)
