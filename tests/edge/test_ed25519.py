"""Signatures against RFC 8032's own vectors, and against the library that makes them."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from loopworks_edge.ed25519 import is_signed

# RFC 8032, section 7.1, tests 1 to 3: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246551"
        "41438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d"
        "291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027"
        "beceea1ec40a",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_the_standards_own_signatures_hold(key: str, message: str, signature: str) -> None:
    assert is_signed(bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message))
    assert not is_signed(bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message) + b"x")


@settings(max_examples=15, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200), bit=st.integers(0, 511))
def test_what_the_library_signs_holds_and_one_turned_bit_does_not(seed: bytes, message: bytes, bit: int) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert is_signed(public, signature, message)
    turned = (int.from_bytes(signature, "little") ^ (1 << bit)).to_bytes(64, "little")
    assert not is_signed(public, turned, message)


def test_a_signature_has_one_form() -> None:
    """S and S + order sign the same; RFC 8032 wants the smaller one, or a signature could be changed unseen."""
    key, message, signature = (bytes.fromhex(text) for text in VECTORS[1])
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert not is_signed(key, signature[:32] + scalar.to_bytes(32, "little"), message)


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (b"", b"\0" * 64),
        (b"\xff" * 32, b"\0" * 64),
        (b"\0" * 32, b"\0" * 63),
        (b"\x02" + b"\0" * 31, b"\0" * 64),
    ],
    ids=["no key", "y too large", "short", "no point"],
)
def test_bytes_that_are_no_key_sign_nothing(key: bytes, signature: bytes) -> None:
    assert not is_signed(key, signature, b"")
