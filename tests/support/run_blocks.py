"""Runs blocks of a document as a reader would: `python run_blocks.py DOCUMENT STEPS`.

STEPS is a JSON file, a list of (language, line, code). It is a program of its own, so that the document's
namespace has nothing in it but what its blocks put there; errors show the line of the document.
"""

import json
import os
import subprocess
import sys
import types
from pathlib import Path


def run(document: str, steps: list[tuple[str, int, str]]) -> None:
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path[0] = ""
    for language, line, code in steps:
        if language == "python":
            exec(compile("\n" * line + code, document, "exec"), vars(main))  # noqa: S102
        else:
            print(f"{document}:{line}", flush=True)
            run_shell(code)


def run_shell(code: str) -> None:
    """Run a block of shell, and go on in the folder it ended in."""
    reading, writing = os.pipe()
    script = f"set -euo pipefail\n{code}\npwd >&{writing}\n"
    subprocess.run(["bash", "-c", script], check=True, pass_fds=[writing])
    os.close(writing)
    with open(reading) as pipe:
        os.chdir(pipe.read().rstrip("\n"))


if __name__ == "__main__":
    run(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
