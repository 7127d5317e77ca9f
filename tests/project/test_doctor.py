"""Laws of the doctor: every fault gives the check it belongs to, with a remedy; nothing is left behind."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault
from support.making import publish_samples
from support.s3_servers import ACCESS_KEY, SECRET_KEY, Bucket

from benchkit.errors import CacheError, FormatError, ProjectError, StoreError
from benchkit.profiles import Profile, save_profile
from benchkit.project import doctor, remote_checks
from benchkit.project.checks import Check
from benchkit.project.doctor import Need, check_disk, examine
from benchkit.store.local import LocalStore

REMOTE = ["remote", "list", "format", "write", "read", "clock", "delete", "unfinished"]
MACHINE = ["disk of staging", "cache", "disk of the cache", "disk of TMPDIR", "open files"]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def calm_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the full disks of the machine that the tests run on out of the results."""
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 0)
    monkeypatch.setattr(doctor, "FULL_DISK_BYTES", 0)


def by_name(checks: list[Check]) -> dict[str, Check]:
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    for check in checks:
        assert (check.state == "ok") == (check.remedy == ""), check
        assert (check.state == "fail") == (check.exit_code != 0), check
    return found


def states(checks: list[Check], state: str) -> list[str]:
    return [check.name for check in checks if check.state == state]


def set_remote(project: Path, remote: str, *lines: str) -> None:
    text = f'[project]\nid = "trial"\nremote = "{remote}"\n[s3]\n' + "\n".join(lines)
    (project / "benchkit.toml").write_text(text + "\n")


def assert_only(checks: list[Check], name: str, *words: str, code: int = StoreError.exit_code) -> None:
    """Check that this one failed, and says these words in its detail or its remedy."""
    found = by_name(checks)
    assert states(checks, "fail") == [name]
    assert found[name].exit_code == code
    for word in words:
        assert word in f"{found[name].detail} -> {found[name].remedy}"


# Folders.


def test_a_new_project_is_well_and_its_remote_is_not_made(project: Path) -> None:
    checks = examine()
    assert [check.name for check in checks] == ["project", "remote", "datasets", *MACHINE]
    assert {check.state for check in checks} == {"ok"}
    assert "is not there yet: the first upload makes it" in by_name(checks)["remote"].detail
    assert sorted(path.name for path in project.iterdir()) == ["benchkit.toml"]


def test_a_remote_in_use_is_tried_out_and_left_as_it_was(project: Path) -> None:
    publish_samples(project, "train", 20, per_chunk=5)
    before = sorted((project / "store").rglob("*"))
    checks = examine()
    assert [check.name for check in checks] == ["project", *REMOTE, "datasets", *MACHINE]
    assert {check.state for check in by_name(checks).values()} == {"ok"}
    assert by_name(checks)["datasets"].detail.startswith("1, largest chunk 0.0 MiB")
    assert sorted((project / "store").rglob("*")) == before


def test_offline_the_remote_is_not_asked(project: Path) -> None:
    set_remote(project, "s3://bucket/prefix", 'endpoint_url = "http://192.0.2.1:9"')
    checks = examine(offline=True)
    assert [check.name for check in checks] == ["project", *MACHINE]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "startproject"),
        ("[project", "is no TOML"),
        ('[project]\nid = "a"\nremote = "ftp://host"\n', "ftp:// is no store"),
    ],
)
def test_without_a_project_the_machine_is_still_looked_at(
    project: Path, text: str | None, words: str
) -> None:
    path = project / "benchkit.toml"
    path.unlink() if text is None else path.write_text(text)
    checks = examine()
    assert [check.name for check in checks] == ["project", "disk of TMPDIR", "open files"]
    code = 2 if text and "ftp" in text else ProjectError.exit_code
    assert_only(checks, "project", words, code=code)


def test_a_file_in_the_place_of_the_remote_fails_reaching_it(project: Path) -> None:
    (project / "store").write_text("a file")
    assert_only(examine(), "remote", "is a file, not a folder")


def test_a_store_of_another_format_fails_and_all_else_is_looked_at(project: Path) -> None:
    (project / "store").mkdir()
    (project / "store/benchkit.json").write_text('{"benchkit":"store","format":2}')
    checks = examine()
    assert_only(checks, "format", "has store format 2", "upgrade benchkit", code=FormatError.exit_code)
    assert [check.name for check in checks] == ["project", *REMOTE, *MACHINE]


def test_a_manifest_that_cannot_be_read_fails_in_its_own_store(project: Path) -> None:
    publish_samples(project, "train", 4, per_chunk=4)
    (manifest,) = (project / "store/datasets/train/versions").iterdir()
    manifest.write_bytes(b"{}")
    assert_only(examine(), "datasets", "train", code=FormatError.exit_code)


# The cache and the disks.


def test_a_limit_for_less_than_one_open_chunk_fails_and_for_less_than_all_is_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_samples(project, "train", 40, per_chunk=10, size=1000)
    publish_samples(project, "val", 10, per_chunk=10, size=2000)
    (project / "store").rename(project / "ProjectDatasets")
    sizes = [check.detail for check in examine() if check.name == "staging"]
    assert sizes == ["2, largest chunk 0.0 MiB unpacked"]
    needs: list[Need] = []
    doctor.check_datasets("staging", LocalStore(project / "ProjectDatasets"), needs)
    train, val = needs
    assert (train.chunks, val.chunks) == (4, 1)
    for limit, state in (
        (2 * val.largest_bytes - 1, "fail"),
        (2 * val.largest_bytes, "warn"),
        (5 * train.largest_bytes - 1, "warn"),
        (5 * train.largest_bytes, "ok"),
    ):
        monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(limit))
        cache = by_name(examine())["cache"]
        assert cache.state == state, limit
        assert cache.exit_code == (CacheError.exit_code if state == "fail" else 0)
        assert state == "ok" or "BENCHKIT_CACHE_LIMIT_BYTES" in cache.remedy


def test_a_cache_that_others_may_enter_fails(project: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "cache").chmod(0o755)
    assert_only(examine(), "cache", f"chmod 700 {tmp_path / 'cache'}", code=CacheError.exit_code)


@pytest.mark.parametrize(
    ("free", "largest", "state"),
    [
        (16 * MIB - 1, 0, "fail"),
        (16 * MIB, 0, "warn"),
        (1024 * MIB - 1, 32 * MIB, "warn"),
        (1024 * MIB, 32 * MIB, "ok"),
        (600 * MIB - 1, 600 * MIB, "fail"),
        (1200 * MIB - 1, 600 * MIB, "warn"),
        (1200 * MIB, 600 * MIB, "ok"),
    ],
)
def test_a_disk_has_room_for_two_chunks_and_a_gibibyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, largest: int, state: str
) -> None:
    monkeypatch.undo()
    needs = [Need(chunks=1, largest_bytes=5), Need(chunks=1, largest_bytes=largest)]
    check = check_disk("disk", tmp_path / "not/yet/there", needs, "make room", free_bytes=free)
    assert check.state == state
    assert (check.remedy == "make room") == (state != "ok")
    by_name([check])


@pytest.mark.parametrize(
    ("limit", "state"), [(256, "warn"), (1023, "warn"), (1024, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_few_open_files_are_a_warning(limit: int, state: str) -> None:
    assert by_name([doctor.check_descriptors(limit)])["open files"].state == state


# The clock.


@pytest.mark.parametrize(
    ("modified", "signed", "state"),
    [
        (100.0, True, "ok"),  # whole seconds
        (101.9, True, "ok"),
        (95.1, True, "ok"),
        (95.0, True, "warn"),
        (106.9, True, "ok"),
        (107.0, True, "warn"),
        (-199.0, True, "warn"),
        (-200.0, True, "fail"),
        (402.0, True, "fail"),
        (100_000.0, False, "warn"),
    ],
)
def test_a_clock_is_told_from_five_seconds_on_and_fails_where_signatures_would_be_refused(
    modified: float, signed: bool, state: str
) -> None:
    check = remote_checks.check_clock(modified, began=100.7, ended=102.0, signed=signed)
    assert check.state == state
    by_name([check])
    if state != "ok":
        assert ("ahead of the store's" in check.detail) == (modified < 100)


# S3.


@pytest.fixture
def s3_project(project: Path, swift_bucket: Bucket) -> Path:
    """Return a project whose remote is in a bucket of Swift's."""
    set_remote(project, swift_bucket.url, f'endpoint_url = "{swift_bucket.server.endpoint}"')
    return project


@pytest.fixture
def proxy(project: Path, swift_bucket: Bucket) -> Iterator[FaultProxy]:
    """Return the way to the project's remote, which can be made faulty."""
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        set_remote(project, swift_bucket.url, f'endpoint_url = "{proxy.url}"')
        yield proxy


def test_a_bucket_is_well_and_left_as_it_was(s3_project: Path, swift_bucket: Bucket) -> None:
    checks = examine()
    assert [check.name for check in checks] == ["project", "credentials", *REMOTE, "datasets", *MACHINE]
    found = by_name(checks)
    assert {check.state for check in checks} == {"ok"}
    assert found["credentials"].detail == "environment"
    assert swift_bucket.server.endpoint in found["remote"].detail
    assert found["format"].detail == "empty yet"
    assert swift_bucket.objects() == {}


def test_unfinished_uploads_are_counted(s3_project: Path, swift_bucket: Bucket) -> None:
    key = "some/prefix/datasets/train/chunks/a.tar"
    swift_bucket.client.create_multipart_upload(Bucket=swift_bucket.name, Key=key)
    check = by_name(examine())["unfinished"]
    assert (check.state, check.detail) == ("ok", "1; bench-kit clean removes what is dead")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_keys_fail_the_credentials_once(
    s3_project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "dev:wrong-as-it-is")
    checks = examine()
    assert_only(checks, "credentials", "environment: ", "the access key", "bench-kit configure")
    assert [check.name for check in checks] == ["project", "credentials", *MACHINE]
    assert "wrong-as-it-is" not in repr(checks)
    assert SECRET_KEY not in repr(checks)


def test_no_credentials_fail_without_a_request(
    project: Path, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert_only(examine(), "credentials", "none found", "run bench-kit configure", "anonymous = true")
    assert proxy.requests == []


def test_an_unknown_profile_fails_the_credentials(s3_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHKIT_PROFILE", "work")
    assert_only(examine(), "credentials", "no profile 'work'", "known are: none", "make it with")


def test_a_file_of_profiles_that_others_can_read_fails_the_credentials(
    s3_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_profile(Profile(name="work", access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY), use=True)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert by_name(examine())["credentials"].detail == "profile work"
    (tmp_path / "config/benchkit/profiles.json").chmod(0o644)
    assert_only(examine(), "credentials", 'run "chmod 600', code=ProjectError.exit_code)


def test_a_wrong_bucket_fails_the_remote(project: Path, swift_bucket: Bucket) -> None:
    set_remote(project, "s3://no-such-bucket", f'endpoint_url = "{swift_bucket.server.endpoint}"')
    assert_only(examine(), "remote", "there is no bucket no-such-bucket", "make it, or name another")


@pytest.mark.usefixtures("s3_environment")
def test_an_unknown_endpoint_fails_the_remote_soon(project: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    set_remote(project, "s3://bucket", f'endpoint_url = "http://127.0.0.1:{port}"')
    began = time.monotonic()
    checks = examine()
    assert time.monotonic() - began < 15
    assert_only(checks, "remote", f"at http://127.0.0.1:{port}", "cannot be reached", "check the network")
    assert by_name(checks)["credentials"].state == "ok"


@pytest.mark.usefixtures("s3_environment")
def test_an_endpoint_that_says_nothing_fails_the_remote_soon(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        set_remote(project, "s3://bucket", f'endpoint_url = "http://127.0.0.1:{silent.getsockname()[1]}"')
        monkeypatch.setattr(doctor, "STALL_SECONDS", 1)
        checks = examine()
    assert_only(checks, "remote", "nothing came within")


@pytest.mark.parametrize(
    ("operation", "name", "permission"),
    [
        ("ListObjects", "list", "s3:ListBucket"),
        ("PutObject", "write", "s3:PutObject"),
        ("DeleteObject", "delete", "s3:DeleteObject"),
    ],
)
def test_a_missing_permission_fails_its_own_check_and_hides_no_other(
    project: Path, proxy: FaultProxy, operation: str, name: str, permission: str
) -> None:
    refusal = Fault("request", "refuse", status=403, code="AccessDenied")
    proxy.inject(refusal, operation=operation, times=99)
    checks = examine()
    assert_only(checks, name, "access is denied", permission)
    assert {"format", "unfinished"} <= set(states(checks, "ok"))


def test_not_being_allowed_to_list_uploads_is_a_warning(project: Path, proxy: FaultProxy) -> None:
    refusal = Fault("request", "refuse", status=403, code="AccessDenied")
    proxy.inject(refusal, operation="ListMultipartUploads", times=99)
    checks = examine()
    assert (states(checks, "fail"), states(checks, "warn")) == ([], ["unfinished"])
    assert "s3:ListBucketMultipartUploads" in by_name(checks)["unfinished"].remedy


def test_a_clock_that_is_too_wrong_for_signatures_fails_the_clock(project: Path, proxy: FaultProxy) -> None:
    refusal = Fault("request", "refuse", status=403, code="RequestTimeTooSkewed")
    proxy.inject(refusal, times=99)
    assert_only(examine(), "clock", "this machine's clock is wrong", "set it")


def test_expired_credentials_fail_the_credentials(project: Path, proxy: FaultProxy) -> None:
    proxy.inject(Fault("request", "refuse", status=400, code="ExpiredToken"), times=99)
    assert_only(examine(), "credentials", "have expired", "renew them")


def test_a_failure_that_nobody_knows_is_not_sent_to_the_doctor_again(
    project: Path, proxy: FaultProxy
) -> None:
    proxy.inject(Fault("request", "refuse", status=412, code="Strange"), times=99)
    assert_only(examine(), "remote", "failed with Strange (412)", "ask whoever runs it")


def test_what_was_written_is_removed_also_where_the_answer_to_writing_was_lost(
    project: Path, proxy: FaultProxy, swift_bucket: Bucket
) -> None:
    proxy.inject(Fault("answer", "reset"), operation="PutObject", times=2)
    assert_only(examine(), "write")
    assert swift_bucket.objects() == {}


def test_without_credentials_not_being_allowed_to_write_is_a_warning(
    project: Path, moto_bucket: Bucket
) -> None:
    with FaultProxy(moto_bucket.server.endpoint) as proxy:
        refusal = Fault("request", "refuse", status=403, code="AccessDenied")
        proxy.inject(refusal, operation="PutObject", times=99)
        set_remote(project, moto_bucket.url, f'endpoint_url = "{proxy.url}"', "anonymous = true")
        checks = examine()
    assert (states(checks, "fail"), states(checks, "warn")) == ([], ["write"])
    assert by_name(checks)["credentials"].detail == "anonymous"
