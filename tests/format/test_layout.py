"""Laws of a store's layout: which names there are, and which are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchkit.errors import FormatError, UsageError
from benchkit.format import layout

DIGEST = "0123456789abcdef" * 4


def test_every_object_has_its_place():
    assert layout.MARKER_NAME == "benchkit.json"
    assert layout.chunk_name("train", DIGEST, "none") == f"datasets/train/chunks/{DIGEST}.tar"
    assert layout.chunk_name("train", DIGEST, "zstd") == f"datasets/train/chunks/{DIGEST}.tar.zst"
    assert layout.version_name("train", 12, DIGEST) == f"datasets/train/versions/12-{DIGEST}.json"
    assert layout.upload_name("train", "abc") == "datasets/train/uploads/abc.json"
    assert layout.dataset_prefix("train") == "datasets/train/"
    assert layout.chunks_prefix("train") == "datasets/train/chunks/"


@pytest.mark.parametrize("name", ["a", "0", "Train.v2_x-1", "a" * 100, "a..b"])
def test_dataset_names(name):
    assert layout.check_dataset_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "ä", "a" * 101, "a\n", "a\\b", "../a", "a@1"]
)
def test_what_is_no_dataset_name_is_refused(name):
    with pytest.raises(UsageError, match="is no dataset name"):
        layout.check_dataset_name(name)


@given(st.integers(1, 999_999_999))
def test_a_version_name_gives_back_number_and_digest(number):
    name = layout.version_name("train", number, DIGEST)
    assert layout.parse_version_name("train", name) == (number, DIGEST)


@pytest.mark.parametrize(
    "tail",
    [
        f"0-{DIGEST}.json",
        f"01-{DIGEST}.json",
        f"1-{DIGEST}.json.tmp",
        f"1-{DIGEST[1:]}.json",
        f"1-{DIGEST.upper()}.json",
        f"-1-{DIGEST}.json",
        f"1000000000-{DIGEST}.json",
        f"1-{DIGEST}.json\n",
        f"x/1-{DIGEST}.json",
        "",
    ],
)
def test_other_objects_among_the_versions_are_none(tail):
    assert layout.parse_version_name("train", f"datasets/train/versions/{tail}") is None
    assert layout.parse_version_name("train", f"datasets/other/versions/1-{DIGEST}.json") is None


@pytest.mark.parametrize("name", ["a", "a/b.json", "datasets/ä/chunks/x", "a..b/c"])
def test_object_names(name):
    assert layout.is_object_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\\b", "a\nb", "a\x00", "a\u200fb", "\ud800"],
)
def test_what_leaves_a_store_or_a_line_is_no_object_name(name):
    assert not layout.is_object_name(name)


def test_the_marker_is_read_again():
    assert layout.marker_bytes() == b'{"benchkit":"store","format":1}'
    layout.check_marker(layout.marker_bytes(), url="file:///store")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON"),
        (b"[]", "not this project's"),
        (b"1", "not this project's"),
        (b"{}", "not this project's"),
        (b'{"benchkit":"store"}', "not this project's"),
        (b'{"benchkit":"store","format":true}', "not this project's"),
        (b'{"benchkit":"store","format":"1"}', "not this project's"),
        (b'{"benchkit":"other","format":1}', "not this project's"),
        (b'{"benchkit":"store","format":2}', "has store format 2, this benchkit reads 1: upgrade"),
        (b'{"benchkit":"store","extra":0,"format":1}', "upgrade"),
        (b" " * 4097, "at most 4096"),
    ],
)
def test_another_marker_is_refused(data, message):
    with pytest.raises(FormatError, match=message):
        layout.check_marker(data, url="file:///store")
