"""The project: packed by `pack`, streamed by `get_dataset`, from a store in a folder or on an S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cases import BATCH_SIZE, Case, Form, Place
from rows import PIXELS, collate_of, row_maker

from benchkit import IterableChunk, LoaderOptions, ProcessorDataset, decode_image, get_dataset
from benchkit.store.local import LocalStore

NAME = "bench"
_CODECS = {"auto": "auto", "plain": "none", "compressed": "zstd"}


class Files(ProcessorDataset):
    """The source files, their numbers as labels."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self.root = Path(files[0]).parent.parent

    def __len__(self) -> int:
        return len(self._files)

    def get_file(self, item: int) -> list[str]:
        return [self._files[item]]

    def get_label_and_numeric_data(self, item: int) -> int:
        return item


class Rows(IterableChunk):
    """The samples as every side makes rows of them."""

    def __init__(self, name: str, cloud: bool, form: Form, *, shuffle: bool) -> None:
        super().__init__(name, cloud, shuffle=shuffle)
        self._form = form

    def _data_iterator(self) -> Iterator[tuple[int, Any]]:
        if self._form == "own":
            for label, files in super()._data_iterator():
                yield label, decode_image(files[0], PIXELS)
        else:
            make = row_maker(self._form)
            for label, files in super()._data_iterator():
                yield make(label, files[0].read())


class Loader:
    """The loader without the rows that fill up its last batch."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            real = self._loader.remainder if self._loader.end_of_dataloader else 0
            yield [part[:real] for part in batch] if real else batch

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loader.load_state_dict(state)


def imports(case: Case) -> list[str]:
    """Return the modules that only some cases need; the other sides import theirs with themselves."""
    if case.action == "pack":
        return ["benchkit.data.pack"]
    return ["boto3"] if case.latency_ms is not None else []


def pack(files: Sequence[str], out: Path, case: Case, place: Place) -> None:
    """Pack the files into the staging of a project of its own."""
    from benchkit.data.pack import pack as pack_dataset  # noqa: PLC0415  # a training does not import it

    _make_project(out, "store")
    pack_dataset(
        Files(files),
        NAME,
        staging=LocalStore(out / "ProjectDatasets"),
        project=out,
        chunk_bytes=place.chunk_bytes,
        codec=_CODECS[case.way],
        workers=case.workers,
    )


def publish(out: Path) -> Path:
    """Upload what is packed, and return the folder of the store."""
    from benchkit.data.upload import upload  # noqa: PLC0415

    upload(LocalStore(out / "ProjectDatasets"), LocalStore(out / "store"), NAME)
    return out / "store"


def load(case: Case, place: Place) -> Loader:
    """Return the loader."""
    project = place.packed
    if place.remote:
        project = place.scratch / "project"
        _make_project(project, place.remote, endpoint=place.endpoint)
    os.environ["BENCHKIT_PROJECT"] = str(project)
    os.environ["BENCHKIT_CACHE_DIR"] = str(place.cache)
    uploaded = bool(place.remote) or (project / "store").exists()
    options = LoaderOptions(collate_fn=collate_of(case.form))
    return Loader(
        get_dataset(
            Rows, uploaded, NAME, BATCH_SIZE, case.workers, case.form, shuffle=case.shuffle, loader=options
        )
    )


def _make_project(folder: Path, remote: str, *, endpoint: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    s3 = f'[s3]\nendpoint_url = "{endpoint}"\n' if endpoint else ""
    (folder / "benchkit.toml").write_text(f'[project]\nid = "benchmark"\nremote = "{remote}"\n{s3}')
