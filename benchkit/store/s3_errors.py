"""The failures of an S3 service as the store's errors: what failed, on which object, and what to do next.

A text is made of names and of the failure's code alone, never of what an exception says: it may hold headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchkit.errors import ObjectNotFoundError, StoreError
from benchkit.store.retry import TransientError

MISSING_KEY = frozenset({"NoSuchKey", "404", "NotFound"})
OUT_OF_RANGE = frozenset({"InvalidRange", "416", "RequestedRangeNotSatisfiable"})
MISSING_UPLOAD = frozenset({"NoSuchUpload"})
EXPIRED = frozenset(
    {
        "400",  # HEAD has no body to say more, and this is how AWS answers it with an expired token
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "LoginRefreshRequired",
        "LoginTokenLoadError",
        "RequestExpired",
        "SSOTokenLoadError",
        "TokenRefreshRequired",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
CREDENTIALS = EXPIRED | {
    "CredentialRetrievalError",
    "InvalidAccessKeyId",
    "MetadataRetrievalError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "SignatureDoesNotMatch",
}
DENIED = frozenset({"403", "AccessDenied", "AllAccessDisabled", "Forbidden"})

_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "CredentialRetrievalError",
        "EndpointConnectionError",
        "HTTPClientError",
        "InternalError",
        "MetadataRetrievalError",
        "OperationAborted",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "RequestTimeout",
        "RequestTimeoutException",
        "ResponseParserError",
        "SSLError",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_DAMAGED_ON_THE_WAY = frozenset(
    {
        "BadDigest",
        "ChecksumMismatch",
        "IncompleteBody",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_CODE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CREDENTIALS = "check the credentials (bench-kit configure)"
_REGION = "the bucket is in another region, or at another endpoint: set region and endpoint_url in [s3]"
_NETWORK = "check the network, and endpoint_url in [s3]"

# What a request does, as "cannot be …", and the permission that it takes.
_OPERATIONS = {
    "get_object": ("read", "s3:GetObject"),
    "head_object": ("looked at", "s3:GetObject and s3:ListBucket"),
    "head_bucket": ("looked at", "s3:ListBucket"),
    "put_object": ("written", "s3:PutObject"),
    "create_multipart_upload": ("written", "s3:PutObject"),
    "upload_part": ("written", "s3:PutObject"),
    "complete_multipart_upload": ("written", "s3:PutObject"),
    "list_objects_v2": ("listed", "s3:ListBucket"),
    "delete_object": ("removed", "s3:DeleteObject"),
    "list_multipart_uploads": ("searched for unfinished uploads", "s3:ListBucketMultipartUploads"),
    "abort_multipart_upload": ("freed of an unfinished upload", "s3:AbortMultipartUpload"),
}

_REASONS = {
    "AccessDenied": "access is denied: ask the bucket's owner for {permission}, or use other credentials "
    "(bench-kit configure)",
    "InvalidAccessKeyId": f"the service does not know the access key: {_CREDENTIALS} and the endpoint",
    "SignatureDoesNotMatch": f"the secret key does not fit the access key: {_CREDENTIALS}, and region and "
    "endpoint_url in [s3]",
    "NoCredentialsError": "there are no credentials: run bench-kit configure, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY; anonymous = true in [s3] reads what is public",
    "PartialCredentialsError": f"the credentials are not complete: {_CREDENTIALS}, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY",
    "CredentialRetrievalError": f"the credentials cannot be had: {_CREDENTIALS}, or the AWS profile",
    "MetadataRetrievalError": f"the credentials cannot be had: {_CREDENTIALS}, or this machine's role",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it, as by timedatectl set-ntp true",
    "NoSuchBucket": "there is no bucket {bucket}: make it, or name another in the remote's URL",
    "InvalidBucketName": "the service takes no bucket of the name {bucket}: name another in the remote's URL",
    "NoSuchUpload": "its upload was ended by somebody else, as by bench-kit clean: write it again",
    "KeyTooLongError": "its name is too long for the service: choose a shorter prefix",
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "301": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "InvalidRegionError": "the region is none: set region in [s3]",
    "CertificateError": "the certificate of the service is not trusted: check endpoint_url, or name the file "
    "of its authority in AWS_CA_BUNDLE",
    "ConfigParseError": "the AWS configuration files cannot be read: mend them",
    "EndpointConnectionError": f"the service cannot be reached: {_NETWORK}",
    "ConnectTimeoutError": f"the service cannot be reached in time: {_NETWORK}",
    "ProxyConnectionError": "the proxy cannot be reached: check HTTPS_PROXY and NO_PROXY",
    "ConnectionClosedError": "the connection was cut: run it again",
    "ReadTimeoutError": "nothing came within stall_timeout_seconds: run it again",
    "SSLError": (
        f"the encrypted connection failed: {_NETWORK}, and where AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE is set, "
        "that it names a file of certificates"
    ),
    "NotImplemented": 'the service does not know what was asked: try checksums = "when_required" in [s3]',
    "MissingContentLength": 'the service wants plain uploads: try checksums = "when_required" in [s3]',
}
_REASONS |= dict.fromkeys(DENIED, _REASONS["AccessDenied"])
# HEAD has no body to say which of the two it is.
_REASONS["403"] = (
    "access is denied: check access key and secret (bench-kit configure), or ask the bucket's owner for "
    "{permission}"
)
_REASONS |= dict.fromkeys(
    EXPIRED,
    "the credentials have expired: renew them (bench-kit configure, aws sso login, AWS_SESSION_TOKEN) and "
    "run it again",
)
_REASONS["400"] = (
    "the service refuses the request (400): if the credentials have expired, renew them (bench-kit "
    "configure, aws sso login, AWS_SESSION_TOKEN); if the bucket is in another region, set region in [s3]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known of a failed request.

    Attributes:
        code: The service's word for it, or the class of what failed on the way.
        status: The HTTP status; 0 for none.
        retry_after_seconds: What the service asked to wait.
    """

    code: str
    status: int = 0
    retry_after_seconds: float | None = None

    def is_transient(self, operation: str) -> bool:
        """Return whether the same request may succeed a little later."""
        sent = operation in ("put_object", "upload_part")
        return (
            self.status in _TRANSIENT_STATUSES
            or self.code in _TRANSIENT_CODES
            or (sent and self.code in _DAMAGED_ON_THE_WAY)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a request is about: an object, by its key and its name in the store, or the store itself."""

    bucket: str
    url: str
    key: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} in {self.url}" if self.name else self.url


def translate(failure: Failure, operation: str, place: Place) -> StoreError:
    """Return the error that a failed request is: `TransientError` where it may be made again."""
    done, permission = _OPERATIONS[operation]
    code = failure.code
    if code in MISSING_KEY:
        if operation in ("get_object", "head_object"):
            return ObjectNotFoundError(f"{place.url} has no object {place.name}")
        code = "NoSuchBucket"
    reason = _REASONS.get(code, "").format(bucket=place.bucket, permission=permission)
    if not reason:
        said = code if _CODE.fullmatch(code) else "an error"
        status = f" ({failure.status})" if failure.status and str(failure.status) != said else ""
        remedy = "run it again later" if failure.is_transient(operation) else "bench-kit doctor tells more"
        reason = f"the request failed with {said}{status}: {remedy}"
    text = f"{place} cannot be {done}: {reason}"
    if failure.is_transient(operation):
        return TransientError(text, retry_after_seconds=failure.retry_after_seconds)
    return StoreError(text)
