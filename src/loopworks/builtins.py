"""What Loopworks ships, registered the way an outside package's plug-ins are: by importing the modules."""

from loopworks import steps
from loopworks.data.clean import copies, labels, quality
from loopworks.data.features import images as image_features
from loopworks.data.features import texts as text_features
from loopworks.data.formats import (
    cityscapes,
    coco,
    color_masks,
    cvat,
    datumaro_bridge,
    datumaro_json,
    delimited,
    folders,
    huggingface,
    kitti,
    label_studio,
    labelme,
    lines,
    solo,
    voc,
    yolo,
)
from loopworks.infer import lightgbm as lightgbm_runtime
from loopworks.infer import onnxruntime, openvino
from loopworks.label import samplers
from loopworks.optimize import learnt, lower, native, onnx_int8
from loopworks.optimize import openvino as openvino_variants
from loopworks.tasks import classes, detection, numbers, segmentation
from loopworks.train import explain, small_cnn, timm
from loopworks.train.detection import small as small_detector
from loopworks.train.detection import torchvision as torchvision_detector
from loopworks.train.detection import transformers as transformers_detector
from loopworks.train.segmentation import small as small_segmenter
from loopworks.train.segmentation import torchvision as torchvision_segmenter
from loopworks.train.segmentation import transformers as transformers_segmenter
from loopworks.train.tables import lightgbm, linear, stacked
from loopworks.train.texts import encoder, ngrams

__all__ = [
    "cityscapes",
    "classes",
    "coco",
    "color_masks",
    "copies",
    "cvat",
    "datumaro_bridge",
    "datumaro_json",
    "delimited",
    "detection",
    "encoder",
    "explain",
    "folders",
    "huggingface",
    "image_features",
    "kitti",
    "label_studio",
    "labelme",
    "labels",
    "learnt",
    "lightgbm",
    "lightgbm_runtime",
    "linear",
    "lines",
    "lower",
    "native",
    "ngrams",
    "numbers",
    "onnx_int8",
    "onnxruntime",
    "openvino",
    "openvino_variants",
    "quality",
    "samplers",
    "segmentation",
    "small_cnn",
    "small_detector",
    "small_segmenter",
    "solo",
    "stacked",
    "steps",
    "text_features",
    "timm",
    "torchvision_detector",
    "torchvision_segmenter",
    "transformers_detector",
    "transformers_segmenter",
    "voc",
    "yolo",
]
