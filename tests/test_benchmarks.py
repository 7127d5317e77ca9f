"""The benchmarks run, as far as what they compare is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
BENCHMARKS = TESTS.parent / "benchmarks"
PAGE = TESTS.parent / "docs" / "guide" / "exactness.md"


def compare(*arguments: str) -> dict:
    """Run `exactness.py`, and return what it told."""
    command = [sys.executable, str(BENCHMARKS / "exactness.py"), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.processes
def test_the_project_is_exact_in_the_comparison():
    report = compare("--peers", "benchkit", "--checks", "pass,uneven")
    records = [*report["pass"][0], *report["uneven"][0]]
    assert len(records) == 2 * 3 + 1
    for record in records:
        steps = -(-record["samples"] // 16)
        assert record["end"] == "ok", record
        assert record["distinct"] == record["gathered"] == record["gathered_distinct"] == record["samples"]
        assert record["steps"] == [steps, steps]
        assert record["loaded"] == steps * 16  # padding included, and nothing that is not yielded


@pytest.mark.slow
@pytest.mark.processes
def test_the_project_comes_back_from_kills_flips_and_stops_in_the_comparison():
    report = compare("--peers", "benchkit", "--checks", "kill,bytes,resume")
    (kill,), (flips,), ((resumed,),) = report["kill"], report["bytes"], report["resume"]
    assert (kill["killed"], kill["shared_memory"], kill["again"]) == ("killed", 0, "ok")
    assert kill["again_distinct"] == 96
    assert (flips["cached"], flips["stored"]) == ("noticed, mended", "CorruptError")
    for told in (value for value in resumed.values() if isinstance(value, dict)):
        assert (told["end"], told["found"], told["left"], told["counted"]) == ("ok", 48, 48, 0)
        assert len(set(told["steps"])) == 1


@pytest.mark.parametrize(("peer", "module"), [("litdata", "litdata"), ("mosaicml", "streaming")])
def test_a_peer_that_is_missing_is_told_and_skipped(peer, module):
    if find_spec(module):
        pytest.skip(f"{module} is installed")
    report = compare("--peers", peer, "--checks", "")
    assert report["skipped"] == [peer]
    assert set(report["versions"]) == {"python", "benchkit", "accelerate", "torch"}


def test_every_test_that_the_exactness_page_names_exists_where_it_says():
    items = re.split(r"^- ", PAGE.read_text().partition("## The same check")[0], flags=re.MULTILINE)[1:]
    assert len(items) > 20
    for item in items:
        files = [TESTS / name for name in re.findall(r"`(\w+/test_\w+\.py)`", item)]
        assert files, item
        text = "".join(file.read_text() for file in files)
        for name in re.findall(r"`(test_\w+)`", item):
            assert f"def {name}(" in text, name
