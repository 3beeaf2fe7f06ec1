"""What Loopworks ships, registered the way an outside package's plug-ins are: by importing the modules."""

from loopworks import steps
from loopworks.data.formats import coco, cvat, delimited, folders, label_studio, lines, yolo
from loopworks.infer import onnxruntime, openvino
from loopworks.label import samplers
from loopworks.optimize import onnx_int8
from loopworks.optimize import openvino as openvino_variants
from loopworks.tasks import image_classification, regions, texts
from loopworks.train import small_cnn, timm

__all__ = [
    "coco",
    "cvat",
    "delimited",
    "folders",
    "image_classification",
    "label_studio",
    "lines",
    "onnx_int8",
    "onnxruntime",
    "openvino",
    "openvino_variants",
    "regions",
    "samplers",
    "small_cnn",
    "steps",
    "texts",
    "timm",
    "yolo",
]
