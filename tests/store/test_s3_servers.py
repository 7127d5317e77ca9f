"""The S3 servers of the tests: they are what they are taken for, and they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from support.certificates import make_certificate
from support.s3_servers import SUPPORT, Bucket, make_bucket, serve_swift


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def ends_soon(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


@pytest.fixture(params=["swift_bucket", "moto_bucket"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param)
    return found


def test_a_new_bucket_is_empty_and_keeps_what_is_put(bucket: Bucket) -> None:
    assert bucket.objects() == {}
    bucket.client.put_object(Bucket=bucket.name, Key="a/b", Body=b"data")
    begun = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="never/completed")
    assert bucket.objects() == {"a/b": b"data"}
    assert bucket.uploads() == [("never/completed", begun["UploadId"])]


def test_swift_checks_signatures(swift_bucket: Bucket) -> None:
    stranger = replace(swift_bucket.server, secret_key=swift_bucket.server.access_key).client()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.list_objects_v2(Bucket=swift_bucket.name)


def test_swift_checks_checksums(swift_bucket: Bucket) -> None:
    with pytest.raises(ClientError, match=r"BadDigest|InvalidRequest"):
        swift_bucket.client.put_object(
            Bucket=swift_bucket.name, Key="a", Body=b"data", ChecksumCRC32="AAAAAA=="
        )
    assert swift_bucket.objects() == {}


def test_what_swift_stores_in_a_folder_of_ones_own_survives_a_restart(swift: object, tmp_path: Path) -> None:
    with serve_swift(tmp_path) as server:
        bucket = make_bucket(server)
        bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"data")
    assert ends_soon(server.pid)
    with serve_swift(tmp_path) as server:
        body = server.client().get_object(Bucket=bucket.name, Key="a")["Body"]
        assert body.read() == b"data"


def test_over_tls_swift_checks_the_checksum_behind_a_body(
    swift: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = make_certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls[0]))
    with serve_swift(tls=tls) as server:
        bucket = make_bucket(server)
        sent: list[str] = []
        bucket.client.meta.events.register(
            "before-send.s3.PutObject", lambda request, **_: sent.append(request.headers["X-Amz-Trailer"])
        )
        bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"data")
        assert sent == [b"x-amz-checksum-crc32"]
        assert bucket.objects() == {"a": b"data"}


@pytest.mark.parametrize("name", ["swift", "moto"])
def test_a_server_ends_when_its_starter_is_killed(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(name)
    script = f"""
import time
from support.certificates import make_certificate
from support.s3_servers import serve_{name}
with serve_{name}() as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(SUPPORT.parent), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        folders = [Path(path) for path in _arguments(pid) if "benchkit-swift-" in path]
        assert is_alive(pid)
        starter.send_signal(signal.SIGKILL)
    assert ends_soon(pid)
    assert not any(folder.exists() for folder in folders)


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
