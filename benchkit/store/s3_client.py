"""The requests of an S3 store: the one file that knows boto3, which it loads at the first request.

Sessions, credentials and connections belong to one process. Requests are made again here and nowhere below:
boto3's own retries are off, so that their number is what the settings say.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchkit.errors import StoreError
from benchkit.profiles import Profile, find_profile, list_profiles
from benchkit.settings import S3Settings, environment_has_credentials
from benchkit.store.retry import Tries, attempt
from benchkit.store.s3_errors import EXPIRED, Failure, Place, translate

_CONNECT_SECONDS = 10.0
_CONNECTIONS = 64
_DEFAULT_REGION = "us-east-1"

# What an answer says in any case: one that was cut off behind its headers is an empty one to boto3.
_SAID = {
    "list_objects_v2": "IsTruncated",
    "list_multipart_uploads": "IsTruncated",
    "create_multipart_upload": "UploadId",
    "complete_multipart_upload": "ETag",
}

# Held while a client is made, and while the process forks: of OpenSSL's locks, those that another thread then
# holds are never free in the child, and to make a client takes many of them.
_CONNECTING = threading.RLock()
os.register_at_fork(
    before=_CONNECTING.acquire, after_in_parent=_CONNECTING.release, after_in_child=_CONNECTING.release
)


class S3Client:
    """One process's requests to a service; safe to share between threads, not to be kept across a fork.

    Attributes:
        settings: How the service is spoken to.
        bucket_seen: Whether the bucket is known to exist.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.bucket_seen = False
        self._lock = threading.Lock()
        self._client: Any = None
        self._readers: set[object] = set()

    @contextmanager
    def sharing(self) -> Iterator[Collection[object]]:
        """Give those that read objects in parts now, the caller among them: they share what is read ahead."""
        reader = object()
        self._readers.add(reader)
        try:
            yield self._readers
        finally:
            self._readers.remove(reader)

    def call(
        self, operation: str, place: Place, *, expected: Collection[str] = (), **parameters: Any
    ) -> dict[str, Any] | None:
        """Make a request, and again while its failures may pass; see `call_once`."""
        tries = Tries(self.settings.attempts)
        return attempt(lambda: self.call_once(operation, place, expected=expected, **parameters), tries)

    def call_once(
        self, operation: str, place: Place, *, expected: Collection[str] = (), **parameters: Any
    ) -> dict[str, Any] | None:
        """Make a request and return its answer, as boto3 gives it.

        Where the credentials have expired, it is made a second time with a new session: whoever renews them
        may have done so.

        Args:
            operation: The name of boto3's method.
            place: What it is about.
            expected: Codes of failures that are an answer too: None.
            **parameters: The method's, beside `Bucket` and `Key`.

        Raises:
            TransientError: It failed in a way that may pass.
            StoreError: It failed.
        """
        named = {"Bucket": place.bucket} | ({"Key": place.key} if place.key else {})
        return self._make(operation, place, expected, named | parameters, expired=None)

    def _make(
        self,
        operation: str,
        place: Place,
        expected: Collection[str],
        parameters: dict[str, Any],
        *,
        expired: Any,
    ) -> dict[str, Any] | None:
        client, handled = None, sys.exc_info()[1]
        try:
            client = self._connected(instead_of=expired)
            answer: dict[str, Any] = getattr(client, operation)(**parameters)
        except _failures() as error:
            failure = _describe(error, handled=handled)
            if failure.code in expected:
                return None
            if (
                failure.code not in EXPIRED
                or client is None
                or expired is not None
                or self.settings.anonymous
            ):
                raise translate(failure, operation, place) from error
        else:
            if _SAID.get(operation, "ResponseMetadata") not in answer:
                raise translate(Failure(code="ConnectionClosedError"), operation, place)
            return answer
        return self._make(operation, place, expected, parameters, expired=client)

    @contextmanager
    def reading(self, place: Place) -> Iterator[None]:
        """Translate what fails while the body of an answer is read."""
        try:
            yield
        except _failures() as error:
            raise translate(_describe(error), "get_object", place) from error

    def _connected(self, *, instead_of: Any) -> Any:
        """Return the client: a new one where there is none, or only the one that is of no more use."""
        with self._lock:
            if self._client is instead_of:
                with _CONNECTING:
                    self._client = _connect(self.settings)
            return self._client


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where credentials come from: a profile of ours, or else a session of boto3's."""

    profile: Profile | None
    session: Any


def credentials_source(settings: S3Settings) -> str:
    """Return in words where the credentials come from; nothing of them is in it.

    Raises:
        StoreError: The settings name a profile that there is not, or the files of AWS cannot be read.
    """
    if settings.anonymous:
        return "anonymous"
    origin = _find_origin(settings)
    if origin.profile:
        return f"profile {origin.profile.name}"
    try:
        credentials = origin.session.get_credentials()
    except _failures() as error:
        raise translate(_describe(error), "head_bucket", Place(bucket="", url="the store")) from error
    if credentials is None:
        return "none found"
    return "environment" if credentials.method == "env" else f"boto3: {credentials.method}"


def failure_code(error: StoreError) -> str:
    """Return the service's word for the failed request that an error tells of; empty where there was none."""
    for cause in _causes(error):
        if isinstance(cause, _failures()) and not isinstance(cause, StoreError):
            return _describe(cause).code
    return ""


def _find_origin(settings: S3Settings) -> _Origin:
    import boto3  # noqa: PLC0415
    from botocore.exceptions import ProfileNotFound  # noqa: PLC0415
    from botocore.session import Session  # noqa: PLC0415

    profile = None
    if not settings.anonymous and (settings.profile or not environment_has_credentials()):
        profile = find_profile(settings.profile)
    try:
        if profile is None:
            core = _new_session()
            session = boto3.Session(profile_name=settings.profile, botocore_session=core)
            core.get_scoped_config()  # looks for the profile
            return _Origin(profile=None, session=session)
        keys = profile.access_key_id, profile.secret_access_key, profile.session_token
        return _Origin(profile=profile, session=boto3.Session(*keys, botocore_session=_new_session()))
    except ProfileNotFound as error:
        known = {known.name for known in list_profiles()} | set(Session().available_profiles)
        raise StoreError(
            f"there is no profile {settings.profile!r:.60}; known are: {', '.join(sorted(known)) or 'none'}; "
            "make it with bench-kit configure, or name another in [s3], BENCHKIT_PROFILE or AWS_PROFILE"
        ) from error


def _new_session() -> Any:
    """Return a session of botocore's that shares what describes the services with all others."""
    from botocore.session import Session  # noqa: PLC0415

    session = Session()
    session.register_component("data_loader", _load_descriptions())
    return session


@cache
def _load_descriptions() -> Any:
    """Return what reads the descriptions of services, and keeps them: forked workers need not read them."""
    from botocore.loaders import Loader  # noqa: PLC0415

    class Descriptions(Loader):  # type: ignore[misc]  # botocore has no types
        def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002
            return ["s3"]  # instead of looking into some 400 folders, twice

    return Descriptions()


def _connect(settings: S3Settings) -> Any:
    import botocore  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    origin = _find_origin(settings)
    profile, session = origin.profile, origin.session
    config = Config(
        connect_timeout=min(_CONNECT_SECONDS, settings.stall_timeout_seconds),
        read_timeout=settings.stall_timeout_seconds,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": settings.addressing},
        request_checksum_calculation=settings.checksums,
        response_checksum_validation=settings.checksums,
        user_agent_extra="benchkit",
        signature_version=botocore.UNSIGNED if settings.anonymous else None,
    )
    region = settings.region or (profile and profile.region) or session.region_name or _DEFAULT_REGION
    endpoint = settings.endpoint_url or (profile and profile.endpoint_url)
    try:
        return session.client("s3", region_name=region, endpoint_url=endpoint, config=config)
    except ValueError as error:
        raise StoreError(
            "the service cannot be spoken to: its endpoint_url or region, in [s3], in the profile or in the "
            "environment, is none"
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """Return the classes of all that can fail in a request."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    return BotoCoreError, ClientError, ResponseParserError, HTTPError, http.client.HTTPException, OSError


def _describe(error: BaseException, *, handled: BaseException | None = None) -> Failure:
    """Return what is known of a failed request; an error of ours, met on the way, is raised as it is.

    Args:
        error: What the request raised.
        handled: What was being handled when the request was made, which is no cause of its failure.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415
    from urllib3.exceptions import ReadTimeoutError  # noqa: PLC0415

    if isinstance(error, ClientError):
        metadata = error.response.get("ResponseMetadata", {})
        after = str(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
        return Failure(
            code=str(error.response.get("Error", {}).get("Code", "")),
            status=int(metadata.get("HTTPStatusCode", 0)),
            retry_after_seconds=float(after) if after.isdecimal() else None,
        )
    for cause in _causes(error):
        if cause is handled:
            break
        if isinstance(cause, StoreError):
            raise cause
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failure(code="CertificateError")
    module = type(error).__module__
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return Failure(code="ReadTimeoutError")
    return Failure(code=type(error).__name__ if module.startswith("botocore.") else "ConnectionClosedError")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
