"""The samples of a user's dataset: what its methods return, checked, every failure naming the sample."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchkit.data.keys import KeyRoot, default_keys, repeat_key
from benchkit.data.processor import ProcessorDataset
from benchkit.errors import DatasetError, LabelTypeError, SampleError
from benchkit.format.digests import digest_key
from benchkit.format.labels import EncodedLabel, encode_label

MAX_SAMPLES = (1 << 32) - 1

_FAILURES = (Exception, SystemExit)
"""What a method of a dataset fails by: to leave by it would end the packing without a word."""
_GROUP = 64
"""So many samples' keys are looked at together."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A user's dataset behind checks.

    Attributes:
        dataset: The dataset.
        root: What default keys are relative to.
        own_keys: Whether the dataset has a `get_key` of its own.
    """

    dataset: ProcessorDataset
    root: KeyRoot
    own_keys: bool

    @classmethod
    def of(cls, dataset: ProcessorDataset, project: Path) -> Samples:
        """Return the samples of a dataset that belongs to a project folder.

        Raises:
            DatasetError: It is no `ProcessorDataset`, or its `root` fails or is no path.
        """
        if not isinstance(dataset, ProcessorDataset):
            raise DatasetError(
                f"{type(dataset).__name__} is no dataset to pack: inherit benchkit.ProcessorDataset"
            )
        own_keys = type(dataset).get_key is not ProcessorDataset.get_key
        try:
            root = dataset.root
        except _FAILURES as error:
            raise DatasetError(f"root of {type(dataset).__name__} failed: {_describe(error)}") from error
        return cls(dataset, KeyRoot.of(root, project=lambda: project), own_keys)

    def count(self) -> int:
        """Return the number of samples, at least one.

        Raises:
            DatasetError: `len()` fails, or is not 1 to 2^32 - 1.
        """
        name = type(self.dataset).__name__
        try:
            count = len(self.dataset)
        except _FAILURES as error:
            raise DatasetError(f"len() of {name} failed: {_describe(error)}") from error
        if count == 0:
            raise DatasetError(f"{name} is empty: its len() is 0, so there is nothing to pack")
        if count > MAX_SAMPLES:
            raise DatasetError(f"{name} has {count} samples; at most {MAX_SAMPLES} are packed")
        return count

    def paths(self, indices: Sequence[int]) -> list[Sequence[str]]:
        """Return the paths of samples' files.

        Raises:
            SampleError: `get_file` fails, or returns something else.
        """
        get_file = self.dataset.get_file
        found: list[Sequence[str]] = []
        try:
            for index in indices:
                found.append(get_file(index))
        except _FAILURES as error:
            raise SampleError(f"sample {index}: get_file failed: {_describe(error)}") from error
        if {list, tuple}.issuperset(map(type, found)) and {str}.issuperset(map(type, chain(*found))):
            return found
        return [_check_paths(paths, index) for paths, index in zip(found, indices, strict=True)]

    def keys(
        self, indices: Sequence[int], paths: Sequence[Sequence[str]], repeats: Sequence[int] = ()
    ) -> list[bytes]:
        """Return samples' keys as they are digested and stored: UTF-8, undecodable file names as on disk.

        Args:
            indices: The samples.
            paths: The files of each.
            repeats: How many samples before have the same default key, for each; nothing is none.

        Raises:
            SampleError: `get_key` fails, or returns no text.
        """
        if self.own_keys:
            keys = [self._own_key(index) for index in indices]
        else:
            keys = default_keys(paths, indices, self.root)
            if any(repeats):
                keys = list(map(repeat_key, keys, repeats))
        encoded: list[bytes] = []
        try:
            encoded.extend(key.encode("utf-8", "surrogateescape") for key in keys)
        except UnicodeEncodeError as error:
            index, key = indices[len(encoded)], keys[len(encoded)]
            raise SampleError(f"sample {index}: its key {key!r:.60} is no Unicode text: {error}") from error
        return encoded

    def _own_key(self, index: int) -> str:
        try:
            key = self.dataset.get_key(index)
        except _FAILURES as error:
            raise SampleError(f"sample {index}: get_key failed: {_describe(error)}") from error
        if not isinstance(key, str) or not key:
            raise SampleError(f"sample {index}: get_key returned {key!r:.60}; it returns a str, not empty")
        return key

    def walked(
        self, indices: npt.NDArray[np.uint32], repeats: npt.NDArray[np.uint32], checks: npt.NDArray[np.uint32]
    ) -> Iterator[tuple[int, bytes, bytes, Sequence[str]]]:
        """Yield index, key, its digest, and paths of samples, which must be those that a walk found.

        Args:
            indices: The samples, uint32, shape (n,).
            repeats: How often their default keys came before, uint32, shape (n,).
            checks: The first 4 bytes of their keys' digests as the walk found them, uint32, shape (n,).

        Raises:
            SampleError: A key is another one now, or a method of the dataset fails.
        """
        for start in range(0, len(indices), _GROUP):
            group = slice(start, start + _GROUP)
            asked = indices[group].tolist()
            paths = self.paths(asked)
            keys = self.keys(asked, paths, repeats[group].tolist())
            digests = list(map(digest_key, keys))
            found = np.frombuffer(b"".join(digests), dtype="<u4").reshape(-1, 4)[:, 0]
            if (found != checks[group]).any():
                wrong = int((found != checks[group]).argmax())
                raise SampleError(
                    f"sample {asked[wrong]}: its key is now {keys[wrong].decode('utf-8', 'replace')!r:.200} "
                    "and was another one before: get_file and get_key must return the same whenever they are "
                    "called"
                )
            yield from zip(asked, keys, digests, paths, strict=True)

    def label(self, index: int) -> EncodedLabel:
        """Return the sample's label as a chunk holds it.

        Raises:
            SampleError: `get_label_and_numeric_data` fails.
            LabelTypeError: It returns a type that cannot be stored.
        """
        try:
            label = self.dataset.get_label_and_numeric_data(index)
        except _FAILURES as error:
            raise SampleError(
                f"sample {index}: get_label_and_numeric_data failed: {_describe(error)}"
            ) from error
        try:
            return encode_label(label)
        except LabelTypeError as error:
            raise LabelTypeError(f"sample {index}: {error}") from error


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check_paths(paths: object, index: int) -> Sequence[str]:
    """Return what `get_file` returned as paths."""
    if not isinstance(paths, list | tuple):
        raise SampleError(
            f"sample {index}: get_file returned {paths!r:.60}, a {type(paths).__name__}; "
            "it returns a list of paths, [] for a sample without files"
        )
    return [_path_text(path, index) for path in paths]


def _path_text(path: object, index: int) -> str:
    """Return a path that is a `str` or a path object as text."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise SampleError(
            f"sample {index}: get_file returned {path!r:.60} among its paths, a {type(path).__name__}; "
            "a path is a str"
        )
    return str(text)
