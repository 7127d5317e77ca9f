"""The loaders that `exactness.py` compares, and the ways to use each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A loader that is compared.

    Attributes:
        module: The package that is imported.
        distribution: The name that it is installed by.
        alone: Ways to load that are not handed to `prepare`, the recommended one first.
        prepared: Ways to load that are.
        stored: Where its chunks are in the folder of its dataset.
        resumed: Ways to load that it can resume.
    """

    module: str
    distribution: str
    alone: tuple[str, ...]
    prepared: tuple[str, ...]
    stored: str = ""
    resumed: tuple[str, ...] = ("default",)


PEERS = {
    "webdataset": Peer(
        module="webdataset",
        distribution="webdataset",
        alone=("split_by_node", "resampled"),
        prepared=("split_by_node", "all shards"),
        resumed=(),
    ),
    "litdata": Peer(
        module="litdata",
        distribution="litdata",
        alone=("drop_last", "keep last"),
        prepared=("drop_last",),
        resumed=("drop_last", "keep last"),
    ),
    "mosaicml": Peer(
        module="streaming", distribution="mosaicml-streaming", alone=("default",), prepared=("default",)
    ),
    "benchkit": Peer(
        module="benchkit", distribution="benchkit", alone=(), prepared=("default",), stored="store"
    ),
}
