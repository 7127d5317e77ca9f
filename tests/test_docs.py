"""The documents are true: every block of code in them runs, in the order in which a reader meets it.

The blocks of one document run in one folder, a copy of a project that was made, packed and uploaded:

    ```python    all in one namespace, as one program
    ```bash      with `set -euo pipefail`; the folder that a block ends in is where the next one begins
    ```text      shown, as are toml and json

Every other block is an error: of another language, of none, or indented. One that cannot run has before it

    <!-- not run: the reason -->

and is a skipped test that says so.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import documents, run_blocks
from support.documents import DOCUMENTS, ROOT, Block, read_blocks


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def list_left_out() -> list:
    """Return a case for each block that is left out; a document that cannot be read fails where it is run."""
    cases = []
    for document in DOCUMENTS:
        try:
            blocks = read_blocks(document.read_text())
        except ValueError:
            blocks = []
        cases += [
            pytest.param(name_of(document), b, id=f"{name_of(document)}:{b.line}")
            for b in blocks
            if b.left_out
        ]
    return cases


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """The environment of a user whose shell has the project's programs, and whose cache is empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BENCHKIT_")}
    programs = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    cache = tmp_path_factory.mktemp("docs_cache")
    # Without GPUs, so that two processes can be had on any machine.
    return {
        **kept,
        "PATH": programs,
        "BENCHKIT_CACHE_DIR": str(cache / "benchkit"),
        "XDG_CONFIG_HOME": str(cache / "config"),
        "CUDA_VISIBLE_DEVICES": "",
    }


@pytest.fixture(scope="session")
def packed_project(tmp_path_factory, environment) -> Path:
    """The template's project with its datasets in the store; never changed, only copied."""
    folder = tmp_path_factory.mktemp("docs")
    for command, where in (
        (["bench-kit", "startproject", "digits"], folder),
        (["python", "manage.py", "migrate-data", "--zip", "--up"], folder / "digits"),
    ):
        subprocess.run(command, cwd=where, env=environment, check=True, timeout=120)
    return folder / "digits"


def run_document(
    document: Path, blocks: list[Block], scratch: Path, environment
) -> subprocess.CompletedProcess:
    steps = [(block.language, block.line, block.code) for block in blocks if block.language in documents.RUN]
    listed = scratch / ".steps.json"
    listed.write_text(json.dumps(steps))
    command = [sys.executable, run_blocks.__file__, str(document), str(listed)]
    return subprocess.run(
        command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_of_a_document_runs(document, request, environment, tmp_path):
    blocks = [block for block in read_blocks(document.read_text()) if not block.left_out]
    if not any(block.language in documents.RUN for block in blocks):
        return
    packed_project = request.getfixturevalue("packed_project")
    scratch = shutil.copytree(packed_project, tmp_path / "digits")
    done = run_document(document, blocks, scratch, environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "block"), list_left_out())
def test_a_block_that_is_left_out_says_why(name, block):
    pytest.skip(f"{name}:{block.line} is not run: {block.left_out}")


@pytest.mark.parametrize(
    "text",
    [
        "```\nx\n```",
        "```py\nx\n```",
        "```console\n$ x\n```",
        "~~~Python\nx\n~~~",
        "text\n\n    x = 1\n",
        "<!-- not run -->\n```python\nx\n```",
        "<!-- not run: -->\n```python\nx\n```",
        "<!-- skipped: why -->\n```python\nx\n```",
        "<!-- not run: why -->\n\ntext\n\n```python\nx\n```",
        "<!-- not run: why -->\n```text\nx\n```",
        "```python\nx\n```\n<!-- not run: why -->",
    ],
)
def test_a_block_is_never_left_out_by_accident(text):
    with pytest.raises(ValueError, match="line"):
        read_blocks(text)


def test_blocks_are_found_wherever_they_stand():
    text = (
        "- item\n\n  ```python\n  a\n  ```\n> ~~~bash\n> b\n> ~~~\n\n<!-- not run: c d -->\n```bash\ne\n```\n"
    )
    assert read_blocks(text) == [
        Block("python", 3, "a\n", None),
        Block("bash", 6, "b\n", None),
        Block("bash", 11, "e\n", "c d"),
    ]


def test_blocks_share_names_and_folders_and_the_first_failure_ends_them(tmp_path, environment):
    text = "```bash\nmkdir d\ncd d\n```\n```python\nf = open('f', 'w')\n```\n"
    text += "```bash\nls\n```\n```python\nf.no\n```\n"
    document = tmp_path / "document.md"
    document.write_text(text)
    done = run_document(document, read_blocks(text), tmp_path, environment)
    assert done.returncode != 0
    assert f'File "{document}", line 12' in done.stderr
    assert done.stdout.splitlines()[-1] == "f"
    failing = run_document(document, [Block("bash", 1, "false | true\n", None)], tmp_path, environment)
    assert failing.returncode != 0
