"""A failed request as an error: which may pass, what the text says, and what it never says."""

from __future__ import annotations

import pytest

from benchkit.errors import ObjectNotFoundError, StoreError
from benchkit.store.retry import TransientError
from benchkit.store.s3_errors import Failure, Place, translate

OBJECT = Place(bucket="cats", url="s3://cats/all", key="all/a/b", name="a/b")
STORE = Place(bucket="cats", url="s3://cats/all")
READS = ("get_object", "head_object")
WRITES = ("put_object", "upload_part")


@pytest.mark.parametrize("operation", [*READS, *WRITES, "delete_object", "complete_multipart_upload"])
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SlowDown", 503),
        ("InternalError", 500),
        ("RequestTimeout", 400),
        ("OperationAborted", 409),
        ("TooManyRequests", 429),
        *[(str(status), status) for status in (408, 429, 500, 502, 503, 504)],
        ("EndpointConnectionError", 0),
        ("ConnectTimeoutError", 0),
        ("ReadTimeoutError", 0),
        ("ConnectionClosedError", 0),
        ("SSLError", 0),
        ("ResponseParserError", 0),
    ],
)
def test_what_may_pass_is_transient(code: str, status: int, operation: str) -> None:
    error = translate(Failure(code=code, status=status, retry_after_seconds=3), operation, OBJECT)
    assert isinstance(error, TransientError)
    assert error.retry_after_seconds == 3
    assert str(error).startswith("a/b in s3://cats/all cannot be ")


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"])
def test_bytes_damaged_on_the_way_are_sent_again(code: str) -> None:
    failure = Failure(code=code, status=400)
    assert all(isinstance(translate(failure, operation, OBJECT), TransientError) for operation in WRITES)
    assert not any(isinstance(translate(failure, operation, OBJECT), TransientError) for operation in READS)


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("AccessDenied", 403, "ask the bucket's owner for s3:PutObject"),
        ("403", 403, "ask the bucket's owner for s3:PutObject"),
        ("NoSuchBucket", 404, "there is no bucket cats: make it"),
        ("404", 404, "there is no bucket cats: make it"),
        ("InvalidAccessKeyId", 403, "does not know the access key.*bench-kit configure"),
        ("SignatureDoesNotMatch", 403, "does not fit.*bench-kit configure.*region and endpoint_url"),
        ("ExpiredToken", 400, "have expired: renew them.*run it again"),
        ("TokenRefreshRequired", 400, "have expired: renew them"),
        ("UnauthorizedSSOTokenError", 0, "have expired: renew them.*aws sso login"),
        ("NoCredentialsError", 0, "no credentials: run bench-kit configure, or set AWS_ACCESS_KEY_ID"),
        ("RequestTimeTooSkewed", 403, "clock is wrong: set it"),
        ("PermanentRedirect", 301, "in another region"),
        ("AuthorizationHeaderMalformed", 400, "in another region"),
        ("CertificateError", 0, "not trusted.*AWS_CA_BUNDLE"),
        ("NotImplemented", 501, "when_required"),
        ("InvalidDigest", 400, r"failed with InvalidDigest \(400\)"),
        ("418", 418, "failed with 418: "),
        ("Key=\x1b[0m secret", 400, r"failed with an error \(400\)"),
        ("", 0, "failed with an error: "),
    ],
)
def test_what_will_not_pass_says_what_to_do(code: str, status: int, says: str) -> None:
    error = translate(Failure(code=code, status=status), "put_object", OBJECT)
    assert type(error) is StoreError
    with pytest.raises(StoreError, match=f"^a/b in s3://cats/all cannot be written: .*{says}"):
        raise error
    assert "\x1b" not in str(error)
    assert "{" not in str(error)


@pytest.mark.parametrize("code", ["NoSuchKey", "404", "NotFound"])
def test_a_missing_object_is_not_found_and_a_missing_bucket_is_told_from_it(code: str) -> None:
    failure = Failure(code=code, status=404)
    for operation in READS:
        error = translate(failure, operation, OBJECT)
        assert isinstance(error, ObjectNotFoundError)
        assert str(error) == "s3://cats/all has no object a/b"
    error = translate(failure, "list_objects_v2", STORE)
    assert type(error) is StoreError
    assert str(error).startswith("s3://cats/all cannot be listed: there is no bucket cats")
