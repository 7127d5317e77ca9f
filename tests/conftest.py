"""What all tests share: a project and a cache that are theirs alone, S3 servers and buckets in them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.making import make_project
from support.s3_servers import (
    ENVIRONMENT,
    Bucket,
    Server,
    ServerMissingError,
    make_bucket,
    serve_moto,
    serve_swift,
)

# What is started in the background of a shell ignores interrupts, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty project, which is the current one."""
    folder = make_project(tmp_path / "project")
    monkeypatch.setenv("BENCHKIT_PROJECT", str(folder))
    monkeypatch.setenv("BENCHKIT_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("BENCHKIT_REMOTE", "BENCHKIT_CACHE_LIMIT_BYTES", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def swift() -> Iterator[Server]:
    """Return OpenStack Swift, started when the first test asks for it."""
    try:
        with serve_swift() as server:
            yield server
    except ServerMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """Return moto's server, started when the first test asks for it."""
    try:
        with serve_moto() as server:
            yield server
    except ServerMissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def s3_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the environment the keys of the test servers, and hide whatever else boto3 would find."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "BENCHKIT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def swift_bucket(swift: Server, s3_environment: None) -> Bucket:
    """Return a new bucket of Swift's, for whose keys the environment stands."""
    return make_bucket(swift)


@pytest.fixture
def moto_bucket(moto: Server, s3_environment: None) -> Bucket:
    """Return a new bucket of moto's, for whose keys the environment stands."""
    return make_bucket(moto)
