"""What Loopworks ships, registered the way an outside package's plug-ins are: by importing the modules."""

from loopworks import steps
from loopworks.infer import onnxruntime, openvino
from loopworks.label import samplers
from loopworks.tasks import image_classification

__all__ = ["image_classification", "onnxruntime", "openvino", "samplers", "steps"]
