"""Laws of `bench-kit doctor`, run as users run it, on disks that are really full or read-only."""

from __future__ import annotations

import json
import subprocess

import pytest
from support.s3_servers import Bucket
from support.scratch import BENCH_KIT, Scratch

from benchkit.errors import CacheError, ProjectError, StoreError

ISOLATED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def examine(project: Scratch, code: int = 0) -> dict[str, dict[str, object]]:
    """Run `bench-kit doctor --json`, see it end with the code, and return its checks by name."""
    return decode(project.bench_kit("doctor", "--json"), code)


def decode(done: subprocess.CompletedProcess[str], code: int) -> dict[str, dict[str, object]]:
    assert (done.returncode, done.stderr) == (code, ""), done
    return {check["name"]: check for check in json.loads(done.stdout)}


def failed(checks: dict[str, dict[str, object]]) -> dict[str, tuple[object, object]]:
    """Return detail and remedy of the checks that failed."""
    return {
        name: (check["detail"], check["remedy"]) for name, check in checks.items() if check["state"] == "fail"
    }


def in_shell(project: Scratch, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=project.root,
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def on_mount(project: Scratch, mount: str, folder: str) -> subprocess.CompletedProcess[str]:
    """Run `bench-kit doctor --json` where something is mounted on a folder, `$0` of the command."""
    if in_shell(project, *ISOLATED, mount, folder).returncode:
        pytest.skip("this machine lets no test mount anything")
    return in_shell(project, *ISOLATED, f'{mount} && exec "$1" doctor --json', folder, str(BENCH_KIT))


def test_all_is_well_in_a_project_that_is(migrated: Scratch) -> None:
    before = migrated.objects("store")
    done = migrated.bench_kit("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["check", "state", "found"]
    assert lines[1].split()[:2] == ["project", "ok"]
    assert not [line for line in lines if " fail " in line]
    assert migrated.objects("store") == before
    assert examine(migrated)["datasets"]["detail"] == "1, largest chunk 1.0 MiB unpacked"


def test_what_is_wrong_has_its_remedy_in_the_next_line_and_gives_the_exit_code(migrated: Scratch) -> None:
    migrated.cache.mkdir(mode=0o755)
    migrated.cache.chmod(0o755)
    done = migrated.bench_kit("doctor")
    assert (done.returncode, done.stderr) == (CacheError.exit_code, "")
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:2] == ["cache", "fail"])
    assert lines[at + 1].startswith(f'    what to do: run "chmod 700 {migrated.cache}"')
    assert lines[-1].startswith("1 check failed, ")


def test_offline_asks_nothing_of_the_remote(scratch: Scratch) -> None:
    (scratch.root / "store").write_text("a file")
    assert failed(examine(scratch, StoreError.exit_code)).keys() == {"remote"}
    done = scratch.bench_kit("doctor", "--offline")
    assert done.returncode == 0
    assert "remote" not in done.stdout


def test_outside_a_project_the_machine_is_looked_at(scratch: Scratch) -> None:
    (scratch.root / "benchkit.toml").unlink()
    checks = examine(scratch, ProjectError.exit_code)
    assert failed(checks).keys() == {"project"}
    assert "open files" in checks


def test_a_remote_that_is_mounted_read_only_fails_writing_and_its_datasets_are_read(
    migrated: Scratch,
) -> None:
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    checks = decode(on_mount(migrated, mount, str(migrated.root / "store")), StoreError.exit_code)
    ((name, (detail, remedy)),) = failed(checks).items()
    assert name == "write"
    assert "Read-only file system" in str(detail)
    assert "writable for you" in str(remedy)
    assert checks["datasets"]["state"] == "ok"


def test_a_remote_that_cannot_be_made_fails(scratch: Scratch) -> None:
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    checks = decode(on_mount(scratch, mount, str(scratch.root)), StoreError.exit_code)
    ((name, (detail, remedy)),) = failed(checks).items()
    assert name == "remote"
    assert "cannot be made" in str(detail)
    assert "writable for you" in str(remedy)


def test_a_cache_whose_disk_is_full_fails(migrated: Scratch) -> None:
    migrated.cache.mkdir(mode=0o700)
    mount = 'mount -t tmpfs -o size=400k,mode=0700 tmpfs "$0"'
    checks = decode(on_mount(migrated, mount, str(migrated.cache)), CacheError.exit_code)
    ((name, (detail, remedy)),) = failed(checks).items()
    assert name == "disk of the cache"
    assert str(detail).startswith("0.4 MiB free for")
    assert "make room" in str(remedy)
    assert "BENCHKIT_CACHE_DIR" in str(remedy)


def test_where_no_file_can_grow_writing_and_temporary_files_fail(migrated: Scratch) -> None:
    limited = 'ulimit -f 0; exec "$0" doctor --json'
    checks = decode(in_shell(migrated, "bash", "-c", limited, str(BENCH_KIT)), StoreError.exit_code)
    faults = failed(checks)
    assert faults.keys() == {"write", "disk of TMPDIR"}
    assert "make room" in str(faults["write"])
    assert "set TMPDIR" in str(faults["disk of TMPDIR"])


def test_few_open_files_are_a_warning_and_no_failure(scratch: Scratch) -> None:
    limited = 'ulimit -n 256; exec "$0" doctor --json'
    checks = decode(in_shell(scratch, "bash", "-c", limited, str(BENCH_KIT)), 0)
    assert checks["open files"]["state"] == "warn"
    assert "ulimit -n" in str(checks["open files"]["remedy"])


def test_a_wrong_secret_is_told_without_being_shown(
    scratch: Scratch, swift_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = f'remote = "{swift_bucket.url}"\n[s3]\nendpoint_url = "{swift_bucket.server.endpoint}"\n'
    (scratch.root / "benchkit.toml").write_text(f'[project]\nid = "scratch"\n{s3}')
    assert failed(examine(scratch)) == {}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody-sees-this")
    done = scratch.bench_kit("doctor")
    assert (done.returncode, done.stderr) == (StoreError.exit_code, "")
    assert "credentials" in done.stdout
    assert "what to do: check the credentials (bench-kit configure)" in done.stdout
    assert "nobody-sees" not in done.stdout
