"""Rules that hold for every input: the backoff, sealing, a file's pieces, encrypted edits."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from testkit.blobs import MEDIA_KEY, seal
from testkit.encrypted_edits import edit_message
from worker.ingest.rules.encrypted_edit import Opened, read_edit
from worker.media.decrypt import BlobDecryptor, Claims
from worker.media.keys import derive_keys
from worker.session.backoff import next_delay
from worker.store.cipher import MARK, StateCipher


@given(st.integers(0, 5000), st.floats(0, 0.5), st.floats(0.001, 60), st.floats(0.001, 3600))
def test_the_backoff_never_shrinks_and_stays_within_its_bounds(
    attempt: int, jitter: float, base: float, cap: float
) -> None:
    delay = next_delay(attempt, jitter, base, cap)
    assert min(base, cap) <= delay <= cap + 0.5
    assert next_delay(attempt + 1, jitter, base, cap) >= delay


@given(st.text(), st.text(), st.text())
def test_what_is_sealed_opens_again_and_shows_nothing(type_: str, name: str, value: str) -> None:
    cipher = StateCipher("default", bytes(range(32)))
    stored = cipher.close(type_, name, value)
    assert stored.startswith(MARK)
    assert len(value) < 8 or value not in stored
    assert cipher.open(type_, name, stored) == value
    assert cipher.close(type_, name, value) != stored, "a fresh nonce each time"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=20))
def test_it_does_not_matter_where_the_pieces_end(plain: bytes, cuts: list[int]) -> None:
    sealed = seal(plain)
    claims = Claims(enc_sha256=sealed.enc_sha256, length=len(plain))
    bounds = [0, *sorted(min(cut, len(sealed.blob)) for cut in cuts), len(sealed.blob)]
    decryptor = BlobDecryptor(derive_keys(MEDIA_KEY, "image"), claims)
    out = b"".join(decryptor.update(sealed.blob[a:b]) for a, b in pairwise(bounds))
    rest, _ = decryptor.finish()
    assert out + rest == plain


@given(st.binary(max_size=200))
def test_any_bytes_are_an_edit_or_a_value_error(data: bytes) -> None:
    try:
        found = read_edit(data)
    except ValueError:
        return
    assert found is None or isinstance(found.text, str)


@given(st.text(max_size=50), st.integers(0, 2**63 - 1))
def test_what_was_written_is_read(text: str, stamp: int) -> None:
    assert read_edit(edit_message(text, stamp)) == Opened(text=text, timestamp_ms=stamp)
