"""What Loopworks ships, registered the way an outside package's plug-ins are: by importing the modules."""

from loopworks import steps
from loopworks.data.formats import (
    coco,
    cvat,
    datumaro_json,
    delimited,
    folders,
    huggingface,
    kitti,
    label_studio,
    labelme,
    lines,
    voc,
    yolo,
)
from loopworks.infer import onnxruntime, openvino
from loopworks.label import samplers
from loopworks.optimize import onnx_int8
from loopworks.optimize import openvino as openvino_variants
from loopworks.tasks import image_classification, regions, texts
from loopworks.train import small_cnn, timm

__all__ = [
    "coco",
    "cvat",
    "datumaro_json",
    "delimited",
    "folders",
    "huggingface",
    "image_classification",
    "kitti",
    "label_studio",
    "labelme",
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
    "voc",
    "yolo",
]
