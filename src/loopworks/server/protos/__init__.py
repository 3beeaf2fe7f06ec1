"""The messages of the gRPC services, in a descriptor pool of our own.

The protocol's clients bring the same messages and register them in protobuf's common pool, where a second registration
fails; kept apart, server and client live in one process. ``descriptors.bin`` and the ``.pyi`` files are what ``protoc``
makes of the ``.proto`` files; ``tests/server/test_grpc_messages.py`` compares them, and writes them anew when told to.
"""

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

FILES = ("inference.proto", "health.proto", "status.proto")
_pool = DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    (resources.files(__name__) / "descriptors.bin").read_bytes()
).file:
    _pool.AddSerializedFile(_file.SerializeToString())


def described(file: str) -> Any:
    """The descriptor of a ``.proto`` file."""
    return _pool.FindFileByName(file)


def messages(file: str) -> dict[str, Any]:
    """The message classes of a ``.proto`` file by name."""
    found = described(file).message_types_by_name
    return {name: message_factory.GetMessageClass(one) for name, one in found.items()}
