"""Sending a checkpoint: its files from every place that has some, and then its version, made by the first.

Where the files are on several machines, each tells the first what it has sent, through the key-value store of
`torch.distributed`: it is asked again and again, for a thread that waited in it would hold up the training.
"""

from __future__ import annotations

import json
import time
from dataclasses import astuple, dataclass
from typing import Any

import torch.distributed as dist

from benchkit.data.catalogue import open_catalogue
from benchkit.errors import BenchKitError, StoreError
from benchkit.format.record import BundleFile
from benchkit.store.bundles import Shelf
from benchkit.train.checkpoint_folder import LocalCopies
from benchkit.train.checkpoint_record import Checkpoint
from benchkit.train.checkpoint_store import retain

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Sending:
    """The upload of one checkpoint, as the process of one place does it; calling it returns the number.

    Attributes:
        shelf: Where it goes.
        copies: Where the files are.
        checkpoint: Which one.
        owners: The ranks that send files, one for each place; the first makes the version.
        rank: Which of them this is.
        keep: How many of the newest versions stay; None keeps all.
    """

    shelf: Shelf
    copies: LocalCopies
    checkpoint: Checkpoint
    owners: tuple[int, ...] = (0,)
    rank: int = 0
    keep: int | None = None

    def __call__(self) -> int | None:
        """Send the files; None where another place makes the version."""
        with self.copies.hold_alone(self.checkpoint.id):
            copy = self.copies.find(self.checkpoint.id)
            if copy is None or copy.number:
                return copy.number if copy else None  # another process has sent it meanwhile
            number = None
            if self.rank == self.owners[0]:
                number = self._publish()
            else:
                self._send_and_tell()
        if number and self.keep:
            retain(self.shelf, self.keep)
        self.copies.tidy()
        return number

    def _publish(self) -> int:
        open_catalogue(self.shelf.store, create=True)
        files = list(self._send())
        for owner in self.owners[1:]:
            files += self._ask(owner)
        into, details = self.checkpoint.id, self.checkpoint.to_details()
        number = self.shelf.publish(files, into=into, details=details).number
        self.copies.set_number(self.checkpoint, number)
        return number

    def _send_and_tell(self) -> None:
        try:
            told: list[object] = [astuple(file) for file in self._send()]
        except BenchKitError as error:
            _key_value_store().set(self._key(self.rank), json.dumps({"error": str(error)}))
            raise
        _key_value_store().set(self._key(self.rank), json.dumps({"files": told}))

    def _send(self) -> tuple[BundleFile, ...]:
        return self.shelf.send(self.copies.folder(self.checkpoint.id), into=self.checkpoint.id)

    def _ask(self, owner: int) -> list[BundleFile]:
        store, key = _key_value_store(), self._key(owner)
        while not store.check([key]):
            time.sleep(_PAUSE_SECONDS)
        told = json.loads(store.get(key))
        if "error" in told:
            raise StoreError(f"the files of rank {owner}'s machine were not sent: {told['error']}")
        return [BundleFile(path=path, size=size, digest=digest) for path, size, digest in told["files"]]

    def _key(self, owner: int) -> str:
        return f"benchkit/checkpoint/{self.checkpoint.id}/{owner}"


def _key_value_store() -> Any:
    # torch has no public name for it; it has been this one since 1.8.
    return dist.distributed_c10d._get_default_store()  # noqa: SLF001
