"""Laws of the digests: known answers, since every name and checksum in a store hangs on them."""

from benchkit.format import digests

EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_a_digest_is_blake3():
    assert digests.digest_bytes(b"") == EMPTY
    hasher = digests.new_hasher()
    for block in (b"a", bytearray(b"b"), memoryview(b"c")):
        hasher.update(block)
    assert hasher.hexdigest() == digests.digest_bytes(b"abc")
    assert hasher.hexdigest() == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


def test_a_key_has_the_first_half_of_its_digest():
    assert digests.digest_key(b"").hex() == EMPTY[:32]


def test_a_checksum_is_xxh3_of_64_bits():
    assert digests.checksum(b"") == 0x2D06800538D394C2
    hasher = digests.new_checksum()
    hasher.update(b"a")
    assert hasher.intdigest() == digests.checksum(b"a") == 0xE6C632B61E964E1F


def test_a_digest_is_64_lower_case_hexadecimal_digits():
    assert digests.is_digest(EMPTY)
    for text in ("", EMPTY[1:], EMPTY + "0", EMPTY.upper(), "g" + EMPTY[1:], "\u0661" * 64):
        assert not digests.is_digest(text)
