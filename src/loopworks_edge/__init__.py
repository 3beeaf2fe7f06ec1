"""Runs one model where Loopworks is not installed: ``python -m loopworks_edge predict|serve|bench|verify``.

``loopworks bundle`` copies this package beside a model, with those modules of ``loopworks`` that it imports. It needs a
runtime (onnxruntime or openvino), numpy and Pillow, and gives the answers of the server, because it is the same code.
"""
