"""webdataset: tar shards by `ShardWriter`, read where they lie, or by curl from the server's own URLs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import webdataset
from cases import BATCH_SIZE, Case, Place
from rows import MakeRow, Row, collate_of, row_maker

_SHUFFLE_BUFFER = 1000  # what its documentation writes


def imports(case: Case) -> list[str]:
    """Return the modules that only some cases need."""
    return ["boto3"] if case.latency_ms is not None else []


def pack(files: Sequence[str], out: Path, case: Case, place: Place) -> None:
    """Write tar shards; each worker writes its own."""
    out.mkdir(parents=True)
    write = partial(_write, files, out, case.workers, place.chunk_bytes)
    with multiprocessing.Pool(case.workers) as pool:
        pool.map(write, range(case.workers))


def load(case: Case, place: Place) -> Any:
    """Return its loader, batched by webdataset as its documentation says."""
    urls = _presign(place) if place.remote else [str(path) for path in sorted(place.packed.iterdir())]
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls) if case.shuffle else False)
    if case.shuffle:
        dataset = dataset.shuffle(_SHUFFLE_BUFFER)
    dataset = dataset.to_tuple("cls", "bin").map(partial(_read, row_maker(case.form)))
    batched = dataset.batched(BATCH_SIZE, collation_fn=collate_of(case.form))
    return webdataset.WebLoader(batched, batch_size=None, num_workers=case.workers)


def _write(files: Sequence[str], out: Path, workers: int, chunk_bytes: int, worker: int) -> None:
    pattern = str(out / f"{worker}-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=len(files), maxsize=chunk_bytes, verbose=0) as writer:
        for number in range(worker * len(files) // workers, (worker + 1) * len(files) // workers):
            data = Path(files[number]).read_bytes()
            writer.write({"__key__": f"{number:08d}", "cls": str(number), "bin": data})


def _read(make_row: MakeRow, sample: tuple[bytes, bytes]) -> Row:
    return make_row(int(sample[0]), sample[1])


def _presign(place: Place) -> list[str]:
    import boto3  # noqa: PLC0415  # only from a server
    from botocore.config import Config  # noqa: PLC0415

    client = boto3.client("s3", endpoint_url=place.endpoint, config=Config(signature_version="s3v4"))
    bucket, _, prefix = place.remote.removeprefix("s3://").partition("/")
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    return [
        client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": entry["Key"]})
        for entry in found
    ]
