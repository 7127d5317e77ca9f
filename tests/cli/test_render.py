"""Laws of text for a terminal."""

from __future__ import annotations

import doctest

import pytest

from benchkit.cli import app, render


@pytest.mark.parametrize("module", [render, app])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    results = doctest.testmod(module)  # type: ignore[arg-type]
    assert results.attempted > 0
    assert results.failed == 0


def test_a_table_aligns_its_columns_and_numbers_to_the_right() -> None:
    text = render.table(
        ["dataset", "samples", "note"], [["train", "1,497", "new"], ["val", "300", ""]], right=[1]
    )
    assert text.splitlines() == [
        "dataset  samples  note",
        "train      1,497  new",
        "val          300",
    ]


def test_a_table_without_rows_is_its_headings() -> None:
    assert render.table(["a", "b"], []) == "a  b"


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        render.table(["a", "b"], [["only one"]])


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain ü 数", "plain ü 数"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("turned\u202earound", "turned\\u202earound"),
        ("not utf-8 \udcff", "not utf-8 \\udcff"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
    ],
)
def test_no_name_can_steer_a_terminal(text: str, safe: str) -> None:
    assert render.escape(text) == safe
    assert render.table(["name"], [[text]]).splitlines()[1] == safe
    assert render.pairs([("name", text)]) == f"name  {safe}"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 * 1024 - 1, "10.0 KiB"),
        (100 * 1024 - 1, "100 KiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (5_000_000_000, "4.66 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_a_size_has_three_digits_and_its_unit(count: int, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (7325, "2 h 2 min"),
    ],
)
def test_a_duration_never_reads_as_sixty_of_a_unit(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_a_rate_over_no_time_is_a_dash() -> None:
    assert render.size_rate(10, 0) == "-"
    assert render.size_rate(3 << 20, 2) == "1.50 MiB/s"
