"""What Loopworks ships, registered the way an outside package's plug-ins are: by importing the modules."""

from loopworks.infer import onnxruntime, openvino
from loopworks.tasks import image_classification
from loopworks.train import small_cnn, timm

__all__ = ["image_classification", "onnxruntime", "openvino", "small_cnn", "timm"]
