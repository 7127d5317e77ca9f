"""The sides of the comparison: the project, its peers, and the limits that neither can pass."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata

from cases import Way

OURS = "benchkit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side.

    Attributes:
        module: The file here that runs it.
        package: The package that it needs; empty for none.
        distribution: The name that the package is installed by; empty where it has no version to tell.
        tools: Commands that it needs.
        limit: Whether it is a limit, not something to train from.
        packs: How it can pack.
        stored: How it has packed what is streamed; None where it streams nothing.
        resumes: Whether it can go on in the midst of an epoch.
        s3: Whether it is read from an S3 server here.
    """

    module: str
    package: str = ""
    distribution: str = ""
    tools: tuple[str, ...] = ()
    limit: bool = False
    packs: tuple[Way, ...] = ()
    stored: Way | None = None
    resumes: bool = False
    s3: bool = False

    def missing(self) -> str:
        """Return what is not installed here; empty where nothing is missing."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"pip install {self.distribution or self.package}"
        lacking = [tool for tool in self.tools if shutil.which(tool) is None]
        return f"no {', '.join(lacking)} here" if lacking else ""

    def version(self) -> str:
        """Return its version; empty where it has none."""
        if self.distribution:
            return metadata.version(self.distribution)
        told = [subprocess.check_output([tool, "--version"], text=True) for tool in self.tools]
        found = [re.search(r"\d+(?:\.\d+)+", text) for text in told]
        return ", ".join(match[0] for match in found if match)


SIDES = {
    OURS: Side(
        module="side_benchkit",
        package="benchkit",
        distribution="benchkit",
        packs=("auto", "plain", "compressed"),
        stored="auto",
        resumes=True,
        s3=True,
    ),
    "webdataset": Side(
        module="side_webdataset",
        package="webdataset",
        distribution="webdataset",
        packs=("plain",),
        stored="plain",
        s3=True,
    ),
    "mosaicml": Side(
        module="side_mosaicml",
        package="streaming",
        distribution="mosaicml-streaming",
        packs=("plain", "compressed"),
        stored="plain",
        resumes=True,
        s3=True,
    ),
    "litdata": Side(
        module="side_litdata",
        package="litdata",
        distribution="litdata",
        packs=("plain", "compressed"),
        stored="plain",
        resumes=True,
        s3=True,
    ),
    "datasets": Side(
        module="side_datasets",
        package="datasets",
        distribution="datasets",
        packs=("compressed",),
        stored="compressed",
        resumes=True,
    ),
    "files": Side(module="side_files", stored="plain"),
    "slices": Side(module="limit_slices", limit=True, packs=("plain",), stored="plain"),
    "bare slices": Side(module="limit_slices", limit=True, packs=("plain",), stored="plain"),
    "checked slices": Side(
        module="limit_slices", package="xxhash", limit=True, packs=("plain",), stored="plain"
    ),
    "tar": Side(module="limit_tar", tools=("tar",), limit=True, packs=("plain",)),
    "tar+zstd": Side(module="limit_tar", tools=("tar", "zstd"), limit=True, packs=("compressed",)),
    "copy": Side(module="limit_copy", limit=True, packs=("plain", "compressed")),
    "decoder": Side(module="limit_decoder", limit=True),
    "gets": Side(module="limit_gets", limit=True),
    "kept gets": Side(module="limit_gets", limit=True),
}
