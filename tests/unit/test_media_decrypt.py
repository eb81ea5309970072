"""Opening a file's ciphertext: what is right comes through, and every tampering is found."""

from __future__ import annotations

import hashlib

import pytest

from testkit.blobs import MEDIA_KEY, Sealed, seal
from worker.errors import MediaCorrupt
from worker.media.decrypt import BlobDecryptor, Claims, Proof
from worker.media.keys import derive_keys

# Made by Baileys' own `getMediaKeys` and Node's cipher, key 00 01 … 1f.
BAILEYS = {
    "image": (
        "Twelve crates of oranges, image.",
        "0f919bc4fe1ea8ea129c4ce6022c05e92df7d97c06950ec6f9c3ca73464386a7"
        "746918f50eedbd8c045872004d9dd36f75494cddd5853cd67d61",
    ),
    "video": (
        "Twelve crates of oranges, video.",
        "85752ff8ab70e3e0e00fb42e98d5899c93bb8ef0163bef57a6fe98d7fb28a06a"
        "9214ccea9b8954efefea5eaec0d248c27beba3630d6cc8566661",
    ),
    "audio": (
        "Twelve crates of oranges, audio.",
        "526d718cc2bb9ef85d2090508849d85e9edd08e08078afb12eeea647ade8c201"
        "084ba9ad9dac4dad5f1a82cd718f847d9f639258e952ab836dba",
    ),
    "document": (
        "Twelve crates of oranges, document.",
        "8232d5f419ad0f128236a42f8876b936c7d5210627f1af5425743328c3f12fa1"
        "981c4f221ff99355756001d6ba993d29ebc0a51885c352d72cb3",
    ),
}
KEYS = derive_keys(MEDIA_KEY, "image")


def opened(
    blob: bytes, claims: Claims | None = None, piece: int = 65_536, media_type: str = "image"
) -> tuple[bytes, Proof]:
    decryptor = BlobDecryptor(derive_keys(MEDIA_KEY, media_type), claims or Claims())
    plain = b"".join(decryptor.update(blob[start : start + piece]) for start in range(0, len(blob), piece))
    rest, proof = decryptor.finish()
    return plain + rest, proof


def claims_of(sealed: Sealed) -> Claims:
    return Claims(enc_sha256=sealed.enc_sha256, length=len(sealed.plain))


@pytest.mark.parametrize("media_type", BAILEYS)
def test_a_blob_that_baileys_made_is_opened(media_type: str) -> None:
    text, blob = BAILEYS[media_type]
    plain, proof = opened(bytes.fromhex(blob), media_type=media_type)
    assert plain.decode() == text
    assert proof.enc_sha256 == hashlib.sha256(bytes.fromhex(blob)).hexdigest()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 1000, 65_535, 65_536, 200_001])
@pytest.mark.parametrize("piece", [1024, 65_536, 10**6])
def test_a_file_of_any_length_in_any_pieces_is_opened_and_proven(length: int, piece: int) -> None:
    sealed = seal(bytes(n % 251 for n in range(length)))
    plain, proof = opened(sealed.blob, claims_of(sealed), piece)
    assert plain == sealed.plain
    assert proof == Proof(sha256=sealed.sha256, enc_sha256=sealed.enc_sha256, length=length)


def test_claims_that_are_missing_are_not_held_against_a_file() -> None:
    sealed = seal(b"oranges")
    assert opened(sealed.blob)[0] == b"oranges"


GOOD = seal(b"x" * 100)
FLIPPED = bytearray(GOOD.blob)
FLIPPED[40] ^= 1
BAD_MAC = bytearray(GOOD.blob)
BAD_MAC[-1] ^= 1
ZERO_PADDING = seal(b"x" * 15, padding=b"\x00")
LONG_PADDING = seal(b"x" * 15, padding=b"\x11")
UNEVEN_PADDING = seal(b"x" * 13, padding=b"\x01\x03\x03")

TAMPERED: dict[str, tuple[bytes, Claims, str]] = {
    "a bit of the ciphertext": (bytes(FLIPPED), Claims(), "MAC"),
    "a bit of the ciphertext, under the message's hash": (bytes(FLIPPED), claims_of(GOOD), "ciphertext's hash"),
    "a bit of the MAC": (bytes(BAD_MAC), Claims(), "MAC"),
    "the last block is missing": (GOOD.blob[:-26] + GOOD.blob[-10:], Claims(), "MAC"),
    "the end is missing": (GOOD.blob[:-5], Claims(), "whole number"),
    "a byte too many": (GOOD.blob + b"\0", Claims(), "whole number"),
    "nothing came": (b"", Claims(), "whole number"),
    "a MAC alone": (GOOD.blob[-10:], Claims(), "whole number"),
    "less than a MAC": (b"abc", Claims(), "whole number"),
    "another key's file": (seal(b"x", media_key=bytes(32)).blob, Claims(), "MAC"),
    "another type's file": (seal(b"x", "Video").blob, Claims(), "MAC"),
    "the message names another ciphertext": (GOOD.blob, Claims(enc_sha256="00" * 32), "ciphertext's hash"),
    "padding of no bytes": (ZERO_PADDING.blob, Claims(), "padding"),
    "padding longer than a block": (LONG_PADDING.blob, Claims(), "padding"),
    "padding that differs within": (UNEVEN_PADDING.blob, Claims(), "padding"),
}


@pytest.mark.parametrize(("blob", "claims", "what"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampering_is_found(blob: bytes, claims: Claims, what: str) -> None:
    with pytest.raises(MediaCorrupt, match=what):
        opened(blob, claims)


@pytest.mark.parametrize("length", [0, 99, 101, 2**33])
def test_the_length_comes_from_the_bytes_not_from_the_message(length: int) -> None:
    plain, proof = opened(GOOD.blob, Claims(enc_sha256=GOOD.enc_sha256, length=length))
    assert (plain, proof.length) == (GOOD.plain, 100)


@pytest.mark.parametrize("position", range(len(GOOD.blob)))
def test_a_flipped_bit_anywhere_is_found_by_the_mac_alone(position: int) -> None:
    blob = bytearray(GOOD.blob)
    blob[position] ^= 0x80
    with pytest.raises(MediaCorrupt):
        opened(bytes(blob))


def test_what_has_been_given_out_before_the_end_never_holds_padding() -> None:
    sealed = seal(b"x" * 100)
    decryptor = BlobDecryptor(KEYS, Claims())
    assert decryptor.update(sealed.blob) == b"x" * 96
    assert decryptor.finish()[0] == b"x" * 4


@pytest.mark.parametrize(("key", "media_type"), [(b"short", "image"), (MEDIA_KEY, "hologram"), (b"", "audio")])
def test_keys_are_made_only_of_a_whole_media_key_and_a_known_type(key: bytes, media_type: str) -> None:
    with pytest.raises(ValueError, match="media"):
        derive_keys(key, media_type)


def test_keys_are_never_shown() -> None:
    assert repr(KEYS) == "MediaKeys()"
