"""Messages of ``health.proto``; the ``.pyi`` beside this file names them."""

from loopworks.server.protos import messages

globals().update(messages("health.proto"))
