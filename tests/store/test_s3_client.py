"""With whose credentials a service is asked, and what is said where it cannot be asked so."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import make_certificate
from support.fault_proxy import FaultProxy
from support.faults import Fault
from support.s3_servers import ACCESS_KEY, SECRET_KEY, Bucket, make_bucket, serve_swift

import benchkit
from benchkit.errors import ObjectNotFoundError, StoreError
from benchkit.settings import S3Settings
from benchkit.store.s3 import S3Store
from benchkit.store.s3_client import credentials_source

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
USES: dict[str, Callable[[S3Store], Any]] = {
    "read": lambda store: store.read("a"),
    "stream": lambda store: list(store.stream("a")),
    "stat": lambda store: store.stat("a"),
    "write": lambda store: store.write("a", b"data"),
    "delete": lambda store: store.delete("a"),
    "list": lambda store: list(store.list()),
    "unfinished": lambda store: list(store.unfinished()),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


PACKAGE = Path(benchkit.__file__).parent


def test_one_file_knows_boto3_and_loads_it_at_the_first_request() -> None:
    knows = re.compile(r"^\s*(import|from) (boto3|botocore|s3transfer|urllib3)\b", re.MULTILINE)
    found = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if knows.search(path.read_text())]
    assert found == [Path("store/s3_client.py")]
    program = (
        "import sys; from benchkit.store.urls import open_store; store = open_store('s3://bucket/a'); "
        "repr(store); sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.fixture
def proxy(swift_bucket: Bucket) -> Iterator[FaultProxy]:
    """Return a way to Swift that counts the requests; the bucket has the object `a`."""
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        S3Store.of(swift_bucket.url, S3Settings(endpoint_url=swift_bucket.server.endpoint)).write(
            "a", b"data"
        )
        yield proxy


def test_a_request_that_breaks_off_while_an_error_is_handled_is_made_again(
    proxy: FaultProxy, swift_bucket: Bucket
) -> None:
    store = open_bucket(swift_bucket, proxy)
    try:
        store.read("missing")
    except ObjectNotFoundError:
        proxy.inject(Fault("request", "reset"), times=1)
        assert store.read("a") == b"data"
    assert sum(request.fault is not None for request in proxy.requests) == 1


@pytest.fixture
def no_keys(s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)


def open_bucket(bucket: Bucket, proxy: FaultProxy, **options: Any) -> S3Store:
    return S3Store.of(bucket.url, S3Settings(endpoint_url=proxy.url, **options))


def write_aws_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, profile: str = "default", secret: str = SECRET_KEY
) -> None:
    path.write_text(f"[{profile}]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))


def test_the_keys_of_the_environment_are_used(swift_bucket: Bucket, proxy: FaultProxy) -> None:
    store = open_bucket(swift_bucket, proxy)
    assert store.read("a") == b"data"
    assert credentials_source(store.settings) == "environment"


@pytest.mark.parametrize("named_in", ["settings", "environment", "default"])
def test_profiles_of_the_aws_files_are_used(
    named_in: str,
    swift_bucket: Bucket,
    proxy: FaultProxy,
    no_keys: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = "default" if named_in == "default" else "work"
    write_aws_file(tmp_path / "credentials", monkeypatch, profile=profile)
    if named_in == "environment":
        monkeypatch.setenv("AWS_PROFILE", "work")
    store = open_bucket(swift_bucket, proxy, profile="work" if named_in == "settings" else None)
    assert store.read("a") == b"data"
    assert credentials_source(store.settings) == "boto3: shared-credentials-file"


def test_a_profile_of_the_settings_comes_before_the_environment(
    swift_bucket: Bucket, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_aws_file(tmp_path / "credentials", monkeypatch, profile="work")
    monkeypatch.setenv(KEYS[1], "wrong")
    assert open_bucket(swift_bucket, proxy, profile="work").read("a") == b"data"
    with pytest.raises(StoreError, match="does not fit"):
        open_bucket(swift_bucket, proxy).read("a")


def test_a_profile_that_there_is_not_is_told_with_those_that_there_are(
    swift_bucket: Bucket, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_aws_file(tmp_path / "credentials", monkeypatch, profile="home")
    store = open_bucket(swift_bucket, proxy, profile="work")
    says = "no profile 'work'; known are: home; make it with bench-kit configure"
    with pytest.raises(StoreError, match=says):
        store.read("a")
    with pytest.raises(StoreError, match=says):
        credentials_source(store.settings)
    assert proxy.requests == []


@every_use
def test_without_credentials_no_request_is_made(
    use: Callable[[S3Store], Any], swift_bucket: Bucket, proxy: FaultProxy, no_keys: None
) -> None:
    store = open_bucket(swift_bucket, proxy)
    with pytest.raises(StoreError, match="no credentials: run bench-kit configure, or set AWS_ACCESS_KEY_ID"):
        use(store)
    assert credentials_source(store.settings) == "none found"
    assert proxy.requests == []


@every_use
@pytest.mark.parametrize("wrong", KEYS)
def test_wrong_keys_are_told_after_one_request_and_not_shown(
    wrong: str,
    use: Callable[[S3Store], Any],
    swift_bucket: Bucket,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(wrong, "dev:wrong-as-it-is")
    store = open_bucket(swift_bucket, proxy)
    with pytest.raises(StoreError, match=r"^(a in )?s3://\S+ cannot be .*bench-kit configure") as caught:
        use(store)
    assert not isinstance(caught.value, ObjectNotFoundError)
    for secret in ("wrong-as-it-is", SECRET_KEY):
        assert secret not in str(caught.value) + repr(caught.value) + repr(store)
    assert len(proxy.requests) == 1


@every_use
def test_a_bucket_that_there_is_not_is_told(
    use: Callable[[S3Store], Any], swift_bucket: Bucket, proxy: FaultProxy
) -> None:
    store = S3Store("no-such-bucket", "some/prefix", S3Settings(endpoint_url=proxy.url))
    with pytest.raises(StoreError, match="there is no bucket no-such-bucket: make it") as caught:
        use(store)
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert len(proxy.requests) <= 2


def test_only_the_first_object_that_is_missing_has_its_bucket_looked_for(
    swift_bucket: Bucket, proxy: FaultProxy
) -> None:
    store = open_bucket(swift_bucket, proxy)
    assert [store.stat(name) for name in ("b", "c", "d")] == [None] * 3
    assert [request.operation for request in proxy.requests] == [
        "HeadObject",
        "HeadBucket",
        "HeadObject",
        "HeadObject",
    ]


def test_an_anonymous_reader_sends_no_signature(moto_bucket: Bucket, no_keys: None) -> None:
    put = moto_bucket.client.put_object
    put(Bucket=moto_bucket.name, Key="some/prefix/a", Body=b"data", ACL="public-read")
    settings = S3Settings(endpoint_url=moto_bucket.server.endpoint, anonymous=True)
    store = S3Store.of(moto_bucket.url, settings)
    headers: list[Any] = []
    client = store._client._connected(instead_of=None)
    client.meta.events.register("before-send.s3", lambda request, **_: headers.append(request.headers))
    assert store.read("a") == b"data"
    assert credentials_source(settings) == "anonymous"
    assert headers
    assert not any("Authorization" in sent for sent in headers)


def test_expired_credentials_are_looked_up_again_once(
    swift_bucket: Bucket, proxy: FaultProxy, no_keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired = Fault("request", "refuse", status=400, code="ExpiredToken")
    write_aws_file(tmp_path / "credentials", monkeypatch)
    store = open_bucket(swift_bucket, proxy)
    assert store.read("a") == b"data"
    write_aws_file(tmp_path / "credentials", monkeypatch, secret=SECRET_KEY[::-1])
    assert store.read("a") == b"data"  # a session keeps what it has read
    proxy.inject(expired)
    with pytest.raises(StoreError, match="does not fit"):
        store.read("a")
    write_aws_file(tmp_path / "credentials", monkeypatch)
    proxy.inject(expired)
    assert store.read("a") == b"data"
    made = len(proxy.requests)
    proxy.inject(expired, times=100)
    with pytest.raises(StoreError, match="have expired: renew them"):
        store.read("a")
    assert len(proxy.requests) == made + 2


def test_a_service_that_tells_its_region_is_asked_again_there(
    swift_bucket: Bucket, proxy: FaultProxy
) -> None:
    assert open_bucket(swift_bucket, proxy, region="eu-north-1").read("a") == b"data"
    assert len(proxy.requests) > 1


def test_another_region_is_told(swift_bucket: Bucket, proxy: FaultProxy) -> None:
    proxy.inject(Fault("request", "refuse", status=400, code="AuthorizationHeaderMalformed"), times=100)
    with pytest.raises(StoreError, match="set region and endpoint_url"):
        open_bucket(swift_bucket, proxy).read("a")


def test_a_service_that_is_not_there_is_told_after_the_attempts(swift_bucket: Bucket) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = "http://{}:{}".format(*unused.getsockname())
        store = S3Store.of(swift_bucket.url, S3Settings(endpoint_url=endpoint, attempts=2))
        with pytest.raises(StoreError, match=r"cannot be reached: check the network.*\(tried 2 times\)"):
            store.read("a")


def test_an_endpoint_of_the_environment_that_is_none_is_told_without_its_password(
    swift_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:password@host")
    with pytest.raises(StoreError, match="endpoint_url") as caught:
        S3Store.of(swift_bucket.url).read("a")
    assert "password" not in str(caught.value)


def test_encrypted_connections_are_used_and_checked(
    s3_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    data = os.urandom(12 << 20)
    with monkeypatch.context() as trusting, serve_swift(tls=(certificate, key)) as server:
        trusting.setenv("AWS_CA_BUNDLE", str(certificate))
        bucket = make_bucket(server)
        store = S3Store(bucket.name, "", S3Settings(endpoint_url=server.endpoint), part_bytes=5 << 20)
        store.write("large", data)
        store.write("small", b"data")
        assert b"".join(store.stream("large")) == data
        assert store.read("small") == b"data"
        trusting.delenv("AWS_CA_BUNDLE")
        with pytest.raises(StoreError, match="certificate of the service is not trusted") as caught:
            S3Store(bucket.name, "", S3Settings(endpoint_url=server.endpoint)).read("small")
        assert "tried" not in str(caught.value)
