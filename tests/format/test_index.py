"""Laws of the index: it says where everything is, and a hostile one reaches nothing outside of its tar."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from support.making import add_row, member_columns
from support.rows import read_rows

from benchkit.errors import BenchKitError, DatasetError, FormatError
from benchkit.format import index as index_module
from benchkit.format.digests import checksum
from benchkit.format.index import IndexBuilder, are_file_names, decode_index
from benchkit.format.labels import encode_label
from benchkit.format.tables import decode_table, encode_table

NUMBERS = np.zeros(3)
SAMPLES = [
    ("a/x.png", [b"x.png"], 3, [b"png bytes"]),
    ("b", [], (1.5, NUMBERS), []),
    ("c/ü", ["ü .tar.gz".encode(), b"zwei"], {"k": [NUMBERS, (1,)]}, [b"", b"second"]),
    ("d", [b"..."], None, [b"dots"]),
]


def build() -> tuple[bytes, bytes]:
    """Return an index, and the bytes its members lie in (without tar headers, which no reader parses)."""
    body, builder = bytearray(), IndexBuilder()
    for key, names, label, files in SAMPLES:
        encoded = encode_label(label)
        for data in (*files, *encoded.parts):
            builder.add_members(*member_columns((len(body), len(data), checksum(data))))
            body += data
        add_row(builder, key.encode(), names, len(files) + len(encoded.parts), encoded.kind)
    assert builder.samples == len(SAMPLES)
    return builder.encode(), bytes(body)


INDEX, BODY = build()
TAR_BYTES = len(BODY)
ARRAYS, METADATA = decode_table(INDEX, what="it", max_depth=200)


def read(data, *, tar_bytes=TAR_BYTES, samples=4):
    return decode_index(data, tar_bytes=tar_bytes, samples=samples, what="chunk 1")


def changed(metadata=METADATA, **arrays) -> bytes:
    columns = {name: np.asarray(values, dtype=ARRAYS[name].dtype) for name, values in arrays.items()}
    return encode_table({**ARRAYS, **columns}, metadata)


def read_range(offset, length):
    assert 0 <= offset <= offset + length <= TAR_BYTES
    return BODY[offset : offset + length]


def visit(index) -> None:
    """Read everything there is to read in an index; nothing may lie outside of the tar."""
    for row in range(index.samples):
        assert isinstance(index.key(row), str)
        for name in index.file_names(row):
            assert are_file_names([name.encode("utf-8", "surrogateescape")])
        _read_or_refuse(index, [row])
    _read_or_refuse(index, range(index.samples))


def _read_or_refuse(index, rows):
    try:
        read_rows(index, rows, read_range, what="chunk 1")
    except BenchKitError as error:
        assert "chunk 1" in str(error)  # noqa: PT017


def test_every_row_is_found_again(assert_same):
    index = read(INDEX)
    assert index.samples == 4
    for row, (key, names, label, files) in enumerate(SAMPLES):
        assert index.key(row) == key
        assert index.file_names(row) == [name.decode() for name in names]
        assert len(index.members(row)) == len(files) + len(encode_label(label).parts)
        ((found, got),) = read_rows(index, [row], read_range, what="it")
        assert [file.getvalue() for file in got or []] == files
        assert_same(label, found)


def test_the_library_of_safetensors_reads_it():
    arrays = safetensors.numpy.load(INDEX)
    assert set(arrays) == {
        *("member_offset", "member_size", "member_checksum", "sample_member", "sample_file"),
        *("kind", "key_end", "name_end", "keys", "names"),
    }
    assert arrays["sample_member"].tolist() == [0, 2, 4, 8, 10]
    assert arrays["sample_file"].tolist() == [0, 1, 1, 3, 4]
    assert arrays["member_checksum"].dtype == np.uint64
    assert bytes(arrays["keys"]).decode() == "a/x.pngbc/üd"
    header = json.loads(INDEX[8 : 8 + int.from_bytes(INDEX[:8], "little")])
    assert list(header["__metadata__"]) == ["benchkit"]
    metadata = json.loads(header["__metadata__"]["benchkit"])
    assert metadata == {
        "benchkit": "index",
        "format": 1,
        "kinds": [
            "cls",
            {"tuple": ["json", "array"]},
            {"dict": {"list": ["array", {"tuple": "json"}]}},
            "json",
        ],
    }


def test_equal_kinds_are_stored_once():
    builder = IndexBuilder()
    for number in range(100):
        builder.add_members(*member_columns((0, 0, 0)))
        add_row(builder, b"%d" % number, [], 1, {"tuple": "json"} if number % 2 else "cls")
    index = read(builder.encode(), samples=100)
    assert index.kinds == ("cls", {"tuple": "json"})
    assert index.kind.tolist() == [0, 1] * 50


def test_numbers_beyond_32_bits_widen_their_column_alone():
    builder = IndexBuilder()
    builder.add_members(*member_columns((5 << 30, 7, 1)))
    add_row(builder, b"k", [], 1, "cls")
    index = read(builder.encode(), tar_bytes=6 << 30, samples=1)
    assert (index.member_offset.dtype, index.member_size.dtype) == (np.uint64, np.uint32)
    assert int(index.member_offset[0]) == 5 << 30
    assert read(INDEX).member_offset.dtype == np.uint32


def test_undecodable_names_and_keys_come_back_as_they_are_on_disk():
    builder = IndexBuilder()
    for _ in range(2):
        builder.add_members(*member_columns((0, 0, 0)))
    add_row(builder, b"\xff/k", [b"\xfe.png"], 2, "cls")
    index = read(builder.encode(), samples=1)
    assert index.key(0).encode("utf-8", "surrogateescape") == b"\xff/k"
    assert index.file_names(0)[0].encode("utf-8", "surrogateescape") == b"\xfe.png"


def test_an_index_without_samples_is_an_index():
    assert read(IndexBuilder().encode(), samples=0).samples == 0


def test_kinds_that_no_reader_takes_are_not_written():
    builder = IndexBuilder()
    for number in range(3):
        builder.add_members(*member_columns((0, 0, 0)))
        add_row(builder, b"", [], 1, {"dict": [[f"{number}" * (25 << 20), "float"], ["x", "json"]]})
    with pytest.raises(DatasetError, match="3 samples have 3 combinations of types"):
        builder.encode()


def test_the_deepest_kind_is_read_again():
    kind = "float"
    for _ in range(64):
        kind = {"dict": [["a", kind], ["b", "json"]]}
    builder = IndexBuilder()
    builder.add_members(*member_columns((0, 0, 0)))
    add_row(builder, b"k", [], 1, kind)
    assert read(builder.encode(), samples=1).kinds == (kind,)


@pytest.mark.parametrize("name", [b"a", b"...", b".a", b"a b", b"\xff", "ü".encode(), b"a\\b", b"n" * 255])
def test_file_names(name):
    assert are_file_names([name, b"ok"])


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"a\nb", b"\x1b[31m", b"\x7f"])
def test_what_is_no_file_name_is_refused(name):
    assert not are_file_names([b"ok", name])
    builder = IndexBuilder()
    for names in ([b"ok"], [name]):
        builder.add_members(*member_columns((0, 0, 0)))
        builder.add_members(*member_columns((0, 0, 0)))
        add_row(builder, b"k", names, 2, "cls")
    with pytest.raises(FormatError, match=r"a file name is empty, is \. or \.\."):
        read(builder.encode(), samples=2)


TAMPERED = {
    "offset behind the end": changed(member_offset=[len(BODY) + 1, *ARRAYS["member_offset"][1:]]),
    "largest offset": changed(member_offset=[2**32 - 1] * 10),
    "size behind the end": changed(member_size=[*ARRAYS["member_size"][:-1], 5]),
    "members cover the tar twice": changed(member_offset=[0] * 10, member_size=[len(BODY)] * 10),
    "members lacking": changed(member_offset=ARRAYS["member_offset"][:-1]),
    "sizes lacking": changed(member_size=ARRAYS["member_size"][:-1]),
    "checksums lacking": changed(member_checksum=ARRAYS["member_checksum"][:-1]),
    "first member skipped": changed(sample_member=[1, 2, 4, 8, 10]),
    "first file skipped": changed(sample_file=[1, 1, 1, 3, 4]),
    "members unused": changed(sample_member=[0, 2, 4, 8, 9]),
    "members beyond": changed(sample_member=[0, 2, 4, 8, 11]),
    "members backwards": changed(sample_member=[0, 4, 2, 8, 10]),
    "sample without members": changed(sample_member=[0, 2, 2, 8, 10]),
    "files beyond": changed(sample_file=[0, 1, 1, 3, 5]),
    "files backwards": changed(sample_file=[0, 3, 1, 3, 4]),
    "label is a file": changed(sample_file=[0, 2, 2, 3, 4]),
    "starts lacking": changed(sample_file=[0, 1, 1, 4]),
    "no starts": changed(sample_file=[], sample_member=[]),
    "unknown kind number": changed(kind=[0, 1, 2, 4]),
    "keys beyond": changed(key_end=[7, 8, 12, 99]),
    "keys backwards": changed(key_end=[7, 3, 12, 13]),
    "key bytes unused": changed(key_end=[7, 8, 11, 12]),
    "keys lacking": changed(key_end=[7, 8, 13]),
    "names beyond": changed(name_end=[5, 15, 19, 99]),
    "names backwards": changed(name_end=[15, 5, 19, 22]),
    "empty name": changed(name_end=[5, 5, 19, 22]),
    "two dots": changed(name_end=[5, 15, 20, 22], names=[*ARRAYS["names"][:-3], 97, 46, 46]),
    "separator": changed(names=[47, *ARRAYS["names"][1:]]),
    "control character": changed(names=[27, *ARRAYS["names"][1:]]),
    "other columns": encode_table({**ARRAYS, "more": ARRAYS["kind"]}, METADATA),
    "column lacking": encode_table({name: a for name, a in ARRAYS.items() if name != "names"}, METADATA),
    "wide column": encode_table({**ARRAYS, "kind": ARRAYS["kind"].astype(np.uint64)}, METADATA),
    "narrow column": encode_table({**ARRAYS, "kind": ARRAYS["kind"].astype(np.uint8)}, METADATA),
    "no metadata": changed(metadata=None),
    "other metadata": changed(metadata={**METADATA, "benchkit": "manifest"}),
    "newer format": changed(metadata={**METADATA, "format": 2}),
    "true format": changed(metadata={**METADATA, "format": True}),
    "more metadata": changed(metadata={**METADATA, "more": 1}),
    "no kinds": changed(metadata={**METADATA, "kinds": None}),
    "bad kind": changed(metadata={**METADATA, "kinds": [*METADATA["kinds"], "pickle"]}),
}


@pytest.mark.parametrize("data", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_index_is_refused(data):
    with pytest.raises(FormatError, match="the index of chunk 1"):
        read(data)


def test_another_tar_or_another_manifest_is_noticed():
    with pytest.raises(FormatError, match="ends behind the end"):
        read(INDEX, tar_bytes=len(BODY) - 1)
    with pytest.raises(FormatError, match="4 samples where the manifest says 5"):
        read(INDEX, samples=5)


def test_sums_that_overflow_64_bits_are_refused():
    columns = {"member_offset": np.full(10, 2**63, "<u8"), "member_size": np.full(10, 2**63, "<u8")}
    for data in (
        encode_table({**ARRAYS, **columns}, METADATA),
        encode_table({**ARRAYS, "member_size": columns["member_size"]}, METADATA),
    ):
        with pytest.raises(FormatError, match="a member lies behind the end"):
            read(data, tar_bytes=2**62 - 1)


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(INDEX) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_an_index_with_changed_bytes_is_refused_or_stays_within_its_tar(changes):
    tampered = bytearray(INDEX)
    for offset, byte in changes:
        tampered[offset] = byte
    try:
        index = read(bytes(tampered))
    except FormatError:
        return
    visit(index)


@settings(max_examples=3000, deadline=None)
@given(st.data())
def test_an_index_with_changed_numbers_is_refused_or_stays_within_its_tar(data):
    names = data.draw(st.lists(st.sampled_from(sorted(ARRAYS)), min_size=1, max_size=3, unique=True))
    columns = {}
    for name in names:
        values = ARRAYS[name].tolist()
        top = int(np.iinfo(ARRAYS[name].dtype).max)
        for _ in range(data.draw(st.integers(1, 2))):
            place = data.draw(st.integers(0, len(values) - 1))
            near = st.integers(max(0, values[place] - 3), min(top, values[place] + 3))
            values[place] = data.draw(near | st.integers(0, top))
        columns[name] = values
    try:
        index = read(changed(**columns))
    except FormatError:
        return
    visit(index)


def test_the_format_is_the_one_that_is_documented():
    assert index_module.INDEX_FORMAT == 1
    assert index_module.INDEX_NAME == b"__benchkit__/index.safetensors"
