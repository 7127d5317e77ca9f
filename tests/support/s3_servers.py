"""S3 servers for tests: real ones, processes on loopback ports that end with whoever started them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ACCESS_KEY, SECRET_KEY, REGION = "dev:dev", "devsecret-not-to-be-shown", "us-east-1"
SUPPORT = Path(__file__).resolve().parent
READY_SECONDS = 60

# What boto3 finds of its own accord, of which a test must see nothing but what it says itself.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


class ServerMissingError(Exception):
    """A server that cannot be had on this machine; the message is one line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running S3 server: where it is, and who may do everything there."""

    endpoint: str
    pid: int
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def client(self, endpoint: str | None = None) -> Any:
        """Return a client of boto3's that makes each request once; the endpoint may be a proxy's."""
        session = boto3.session.Session(self.access_key, self.secret_key, region_name=REGION)
        config = Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}, read_timeout=60
        )
        return session.client("s3", endpoint_url=endpoint or self.endpoint, config=config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket of a server, and a look into it that goes past the code under test."""

    name: str
    server: Server
    client: Any

    @property
    def url(self) -> str:
        """The URL of a store in it."""
        return f"s3://{self.name}/some/prefix"

    def objects(self) -> dict[str, bytes]:
        """Return what is stored: contents by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key: self.get(key) for key in keys}

    def get(self, key: str) -> bytes:
        """Return the contents of one object."""
        body = self.client.get_object(Bucket=self.name, Key=key)["Body"]
        with contextlib.closing(body):
            return bytes(body.read())

    def uploads(self) -> list[tuple[str, str]]:
        """Return key and id of multipart uploads that were begun and neither completed nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=self.name)
        return [(entry["Key"], entry["UploadId"]) for entry in found.get("Uploads", ())]


def make_bucket(server: Server) -> Bucket:
    """Make a bucket that nobody else uses."""
    bucket = Bucket(name=f"bucket-{uuid.uuid4().hex[:12]}", server=server, client=server.client())
    bucket.client.create_bucket(Bucket=bucket.name)
    return bucket


@contextlib.contextmanager
def serve_swift(folder: Path | None = None, *, tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """Run OpenStack Swift, which checks signatures and checksums as S3 does.

    Args:
        folder: Where what is stored stays; None is a new folder in memory, which is removed at the end.
        tls: Files of a certificate and its key, for `https`.

    Raises:
        ServerMissingError: Swift is not installed, or no folder can hold its data.
    """
    if importlib.util.find_spec("swift") is None:
        raise ServerMissingError("no OpenStack Swift here: pip install swift")
    options = ["--access", ACCESS_KEY, "--secret", SECRET_KEY]
    if tls:
        options += ["--cert", str(tls[0]), "--key", str(tls[1])]
    if folder:
        with _serve("swift_server.py", str(folder), *options) as server:
            yield server
        return
    temporary = tempfile.mkdtemp(prefix="benchkit-swift-", dir=_swift_base())
    try:
        with _serve("swift_server.py", temporary, *options, "--temporary") as server:
            yield server
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def serve_moto() -> Iterator[Server]:
    """Run moto's server, whose create-only put is atomic, and which takes any signature.

    Raises:
        ServerMissingError: moto is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "flask_cors")):
        raise ServerMissingError("no moto server here: pip install 'moto[s3]' flask flask-cors")
    with _serve("moto_server.py") as server:
        yield server


def _swift_base() -> str:
    """Return a folder whose file system keeps extended attributes, in memory where it can be."""
    for base in ("/dev/shm", tempfile.gettempdir()):
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=base) as file:
            os.setxattr(file.name, "user.benchkit", b"kept")
            return base
    raise ServerMissingError("no OpenStack Swift here: neither /dev/shm nor TMPDIR keeps extended attributes")


@contextlib.contextmanager
def _serve(script: str, *arguments: str) -> Iterator[Server]:
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-W", "ignore", str(SUPPORT / script), *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process:
            try:
                assert process.stdout
                readable, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
                line = process.stdout.readline() if readable else ""
                if not line.startswith("READY "):
                    process.kill()
                    process.wait()
                    errors.seek(0)
                    said = errors.read().decode(errors="replace")[-2000:]
                    raise RuntimeError(f"{script} was not ready within {READY_SECONDS} s: {said}")
                yield Server(endpoint=line.split()[1], pid=process.pid)
            finally:
                process.terminate()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
