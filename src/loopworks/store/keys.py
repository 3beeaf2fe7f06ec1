"""The workspace's own key, which signs what leaves it: Ed25519, in a file that its owner alone may read."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from loopworks.core.errors import Damaged
from loopworks.store.blobs import write_error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FOLDER = "keys"
FILE = "bundle.pem"


class SigningKey:
    """Signs bytes; ``public`` is what signatures are checked with, in hex."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        """Wrap a private key."""
        self._key = key
        self.public: str = key.public_key().public_bytes_raw().hex()

    def sign(self, content: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(content)


def signing_key(home: Path) -> SigningKey:
    """The key of the workspace in ``home``, made on first use.

    Raises: Damaged: the file is none of a key. Denied, NoSpace: it cannot be read or written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = home / FOLDER / FILE
    try:
        if not path.is_file():
            _make(path)
        content = path.read_bytes()
    except OSError as error:
        raise write_error(path, error) from None
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise Damaged(f"{path} must be a private key in PEM; got another content", str(error)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Damaged(f"{path} must be an Ed25519 key; got {type(key).__name__}", "remove it and a new one is made")
    return SigningKey(key)


def _make(path: Path) -> None:
    """Write a new key; where another process was faster, its key stays."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path.parent.mkdir(mode=0o700, exist_ok=True)
    content = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
    except FileExistsError:
        pass  # the other's key is as good, and may have signed something already
    finally:
        partial.unlink()
