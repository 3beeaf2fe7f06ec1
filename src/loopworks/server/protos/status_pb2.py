"""Messages of ``status.proto``; the ``.pyi`` beside this file names them."""

from loopworks.server.protos import messages

globals().update(messages("status.proto"))
