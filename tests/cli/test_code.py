"""Code versions through the real command lines, on a folder and on S3 servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault
from support.s3_servers import Bucket
from support.scratch import BENCH_KIT, Scratch, assert_refused, flip, table_rows

from benchkit.errors import CorruptError, NotFoundError, ProjectError, StoreError, UsageError

KEPT_BACK = "AKIA-not-to-be-packed"


def make_project(folder: Path, *, remote: str = "store", endpoint: str = "") -> Scratch:
    project = Scratch.make(folder, files=4)
    s3 = f'[s3]\nendpoint_url = "{endpoint}"\n' if endpoint else ""
    (project.root / "benchkit.toml").write_text(f'[project]\nid = "scratch"\nremote = "{remote}"\n{s3}')
    (project.root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (project.root / "run.sh").chmod(0o755)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Scratch:
    """Return a project whose remote is a folder."""
    return make_project(tmp_path / "scratch")


@pytest.fixture(params=["local", "swift", "moto"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    """Return such a project with a remote of each kind."""
    if request.param == "local":
        return make_project(tmp_path / "scratch", remote=str(tmp_path / "store"))
    bucket: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return make_project(tmp_path / "scratch", remote=bucket.url, endpoint=bucket.server.endpoint)


def succeed(done: subprocess.CompletedProcess[str], *, err: str = "") -> str:
    assert (done.returncode, done.stderr) == (0, err), done
    return done.stdout


def numbers(project: Scratch) -> list[int]:
    return [version["version"] for version in json.loads(succeed(project.bench_kit("show-vs", "--json")))]


def code_of(folder: Path) -> dict[str, tuple[bytes, bool]]:
    left_out = ("data", "ProjectDatasets", "store", ".benchkit", "__pycache__")
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file() and not set(left_out) & set(path.relative_to(folder).parts)
    }


def test_code_is_packed_uploaded_pulled_and_runs(anywhere: Scratch, tmp_path: Path) -> None:
    anywhere.migrate("--zip", "--up", "--workers", "1")
    assert "version 1 of the code is in" in succeed(anywhere.manage("migrate-code"))
    shown = json.loads(succeed(anywhere.bench_kit("show-vs", "--json")))[0]
    (dataset,) = shown["datasets"]
    assert (dataset["name"], dataset["version"], len(dataset["manifest"])) == ("train", 1, 64)
    assert shown["python"] == sys.version.split()[0]

    out = tmp_path / "elsewhere" / "pulled"
    told = succeed(anywhere.bench_kit("pull-vs", "1", "--to", f"../{out.relative_to(tmp_path)}"))
    assert told == f"version 1 is in {out}: 4 new\n"
    assert code_of(out) == code_of(anywhere.root)
    pulled = Scratch(out, tmp_path / "pulled-cache")
    read = "from Datasets.ProjectDatasets import NotesChunk; print(sorted(NotesChunk('train', True)))"
    process = pulled.start([sys.executable, "-c", read])
    assert process.communicate(timeout=60) == ("[(0, 0), (1, 1), (2, 2), (3, 3)]\n", "")
    assert subprocess.run([out / "run.sh"], capture_output=True, check=True).stdout == b"ran\n"

    assert "unchanged: version 1 of" in succeed(pulled.manage("migrate-code"))
    (out / "run.sh").write_text("#!/bin/sh\necho again\n")
    assert succeed(pulled.manage("migrate-code")).splitlines()[0] == "  ~ run.sh"
    diff = succeed(anywhere.bench_kit("diff-vs", "1", "2"))
    assert diff.splitlines()[-3:] == [" #!/bin/sh", "-echo ran", "+echo again"]
    assert succeed(anywhere.bench_kit("diff-vs", "2", "1")).splitlines()[-1] == "+echo ran"
    deleted = succeed(anywhere.bench_kit("del-vs", "1", "--yes"))
    assert deleted.startswith("deleted version 1 of the code")
    assert numbers(anywhere) == [2]


def test_secrets_stay_out_and_are_named(project: Scratch) -> None:
    (project.root / ".env").write_text(KEPT_BACK)
    (project.root / "keys").mkdir()
    (project.root / "keys/\x1b[31mserver.pem").write_text(KEPT_BACK)
    (project.root / "link").symlink_to("/etc")
    done = project.manage("migrate-code")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == "warning: left out as secrets: .env, keys/\\x1b[31mserver.pem"
    assert lines[1] == "         to pack one all the same, write !/.env in .benchkitignore"
    assert lines[2] == "warning: left out, as links and the like are not packed: link"
    assert KEPT_BACK.encode() not in b"".join(project.objects("store").values())
    (project.root / ".benchkitignore").write_text("!/.env\nkeys/\nlink\n")
    succeed(project.manage("migrate-code"))
    assert KEPT_BACK.encode() in b"".join(project.objects("store").values())


def test_an_existing_number_is_replaced_only_with_force_which_says_by_what(project: Scratch) -> None:
    succeed(project.manage("migrate-code"))
    (project.root / "run.sh").write_text("changed")
    (project.root / "new.py").write_text("")
    done = project.manage("migrate-code", "1")
    assert_refused(done, UsageError, "version 1 is there already", "version 2", "diff-vs 1", "--force")
    assert_refused(project.manage("migrate-code", "3"), UsageError, "would leave a gap: the next is 2")
    assert_refused(project.manage("migrate-code", "--force"), UsageError, "say which")
    lines = succeed(project.manage("migrate-code", "1", "--force")).splitlines()
    assert lines[0].startswith("replaced version 1 of ")
    assert lines[1:3] == ["  + new.py", "  ~ run.sh"]
    assert lines[3].startswith("version 1 of the code is in file://")
    assert numbers(project) == [1]
    assert len([name for name in project.objects("store") if name.startswith("code/")]) == 2


def test_versions_are_shown_as_a_table(project: Scratch) -> None:
    assert "holds no version of this code; put one there with: python manage.py" in succeed(
        project.bench_kit("show-vs")
    )
    succeed(project.manage("migrate-code"))
    heads, row = table_rows(succeed(project.bench_kit("show-vs")))
    shown = dict(zip(heads, row, strict=True))
    assert (shown["version"], shown["files"], shown["datasets"]) == ("1", "4", "train (not uploaded)")


def test_files_that_are_there_are_replaced_only_with_force(project: Scratch) -> None:
    succeed(project.manage("migrate-code"))
    (project.root / "run.sh").write_text("mine")
    before = code_of(project.root)
    assert_refused(project.bench_kit("pull-vs", "1"), UsageError, "'run.sh' in", "--force", "--to")
    assert code_of(project.root) == before
    out = succeed(project.bench_kit("pull-vs", "1", "--force"))
    assert out.splitlines()[0] == "  ~ run.sh"
    assert "1 replaced, 3 as they were" in out
    assert (project.root / "run.sh").read_text() == "#!/bin/sh\necho ran\n"


def test_the_project_as_it_is_can_be_compared(project: Scratch) -> None:
    succeed(project.manage("migrate-code"))
    assert succeed(project.bench_kit("diff-vs", "1"), err="nothing differs\n") == ""
    (project.root / "run.sh").write_bytes(b"#!/bin/sh\n\x1b[2Jecho ran\n")
    out = succeed(project.bench_kit("diff-vs", "1"))
    assert "+\x1b[2Jecho ran\n" in out
    leader, follower = os.openpty()
    subprocess.run(
        [BENCH_KIT, "diff-vs", "1"], cwd=project.root, env=project.environment, stdout=follower, check=True
    )
    os.close(follower)
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    assert b"+\\x1b[2Jecho ran" in shown
    assert b"\x1b[2J" not in shown


@pytest.mark.parametrize(
    "arguments", [["pull-vs", "7"], ["del-vs", "7", "--yes"], ["diff-vs", "1", "7"], ["diff-vs", "7", "1"]]
)
def test_an_unknown_version_is_named_with_those_there_are(project: Scratch, arguments: list[str]) -> None:
    succeed(project.manage("migrate-code"))
    assert_refused(project.bench_kit(*arguments), NotFoundError, "no version 7; it has: 1")


def test_where_there_is_no_version_that_is_said(project: Scratch) -> None:
    assert_refused(project.bench_kit("pull-vs", "1"), NotFoundError, "there is no code 'scratch'")
    assert_refused(project.bench_kit("del-vs"), UsageError, "nothing to delete")
    for wrong in ("0", "-1", "x", "1@2"):
        assert project.bench_kit("pull-vs", wrong).returncode == 2


def test_deleting_asks_and_without_a_terminal_needs_yes(project: Scratch) -> None:
    for text in ("1", "2", "3"):
        (project.root / "run.sh").write_text(text)
        succeed(project.manage("migrate-code"))
    assert_refused(project.bench_kit("del-vs"), UsageError, "needs a version", "1, 2, 3")
    assert_refused(project.bench_kit("del-vs", "2"), UsageError, "add --yes")
    out, shown = project.on_terminal([BENCH_KIT, "del-vs", "2"], typed=b"n\n", code=1)
    assert b"Delete version 2 of the code" in out + shown
    assert numbers(project) == [1, 2, 3]
    project.on_terminal([BENCH_KIT, "del-vs"], typed=b"2\ny\n")
    assert numbers(project) == [1, 3]
    (project.root / "run.sh").write_text("4")
    succeed(project.manage("migrate-code"))
    assert numbers(project) == [1, 3, 4]


def test_code_whose_datasets_cannot_be_told_is_packed_with_a_note(project: Scratch) -> None:
    project.write_datasets("def main():\n    raise RuntimeError('no data here')\n")
    done = project.manage("migrate-code")
    assert done.returncode == 0
    assert done.stderr.startswith("note: which datasets this code uses is not known: ")
    assert "no data here" in done.stderr
    assert json.loads(succeed(project.bench_kit("show-vs", "--json")))[0]["datasets"] is None


def test_datasets_that_only_running_main_tells_are_told(project: Scratch) -> None:
    path = project.root / "Datasets/ProjectDatasets.py"
    path.write_text(
        path.read_text().replace("return [(", "return [entry for entry in [(").replace(", {})]", ", {})]]")
    )
    succeed(project.manage("migrate-code"))
    (dataset,) = json.loads(succeed(project.bench_kit("show-vs", "--json")))[0]["datasets"]
    assert dataset == {"name": "train", "version": None, "manifest": None}


def test_a_damaged_version_is_an_error_and_leaves_nothing(project: Scratch, tmp_path: Path) -> None:
    succeed(project.manage("migrate-code"))
    (archive,) = (project.root / "store/code").rglob("code.zip")
    flip(archive)
    done = project.bench_kit("pull-vs", "1", "--to", str(tmp_path / "out"))
    assert_refused(done, CorruptError, "is corrupt")
    assert not (tmp_path / "out").exists()
    archive.unlink()
    assert_refused(project.bench_kit("pull-vs", "1"), CorruptError, "is missing")
    (record,) = (project.root / "store/code/scratch/versions").iterdir()
    flip(record)
    assert_refused(project.bench_kit("show-vs"), CorruptError, "is corrupt")
    succeed(project.bench_kit("del-vs", "1", "--yes"))
    assert numbers(project) == []


@pytest.mark.processes
def test_a_full_disk_is_an_error_and_loses_nothing(project: Scratch, tmp_path: Path) -> None:
    (project.root / "large.txt").write_bytes(os.urandom(400_000))

    def limited(*command: str | Path) -> subprocess.CompletedProcess[str]:
        words = " ".join(f"'{word}'" for word in command)
        return subprocess.run(
            ["bash", "-c", f"ulimit -f 200; exec {words}"],
            cwd=project.root,
            env=project.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert_refused(limited(sys.executable, "manage.py", "migrate-code"), StoreError, "cannot be packed")
    assert numbers(project) == []
    succeed(project.manage("migrate-code"))
    (project.root / "run.sh").write_text("changed")
    before = code_of(project.root)
    for arguments in (["pull-vs", "1", "--force"], ["pull-vs", "1", "--to", tmp_path / "out"]):
        assert_refused(limited(BENCH_KIT, *arguments), StoreError, "cannot be kept")
    assert code_of(project.root) == before
    assert not (tmp_path / "out").exists()
    assert numbers(project) == [1]


@pytest.mark.processes
def test_an_upload_that_is_killed_leaves_no_version_and_is_done_again(
    tmp_path: Path, swift_bucket: Bucket
) -> None:
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        project = make_project(tmp_path / "scratch", remote=swift_bucket.url, endpoint=proxy.url)
        for part in ("code.zip", "versions/1-"):
            proxy.inject(
                Fault("request", "stall", seconds=60),
                operation="PutObject",
                where=lambda request, part=part: part in request.key,
            )
            process = project.start([sys.executable, "manage.py", "migrate-code"])
            while not any(request.fault for request in proxy.requests):
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            proxy.forget()
            assert numbers(project) == []
        succeed(project.manage("migrate-code"))
        assert numbers(project) == [1]
        assert os.listdir(project.root / ".benchkit") == []


def test_projects_that_share_a_remote_have_versions_of_their_own(project: Scratch, tmp_path: Path) -> None:
    store = str(project.root / "store")
    other = make_project(tmp_path / "other", remote=store)
    toml = other.root / "benchkit.toml"
    toml.write_text(toml.read_text().replace('"scratch"', '"other"'))
    succeed(project.manage("migrate-code"))
    (other.root / "run.sh").write_text("other")
    succeed(other.manage("migrate-code"))
    (other.root / "run.sh").write_text("others")
    succeed(other.manage("migrate-code"))
    assert (numbers(project), numbers(other)) == ([1], [1, 2])
    assert "unchanged: version 1" in succeed(project.manage("migrate-code"))
    for part in (project, other):
        left = part.root / f"store/code/{part.root.name}/files/20260101-000000-00000000/code.zip"
        left = Path(store, left.relative_to(part.root / "store"))
        left.parent.mkdir()
        left.write_bytes(b"cut off")
    assert "removed 2 objects" in succeed(project.bench_kit("clean", "--older-than", "0", "--yes"))
    assert (numbers(project), numbers(other)) == ([1], [1, 2])


def test_two_clones_upload_the_same_archive(project: Scratch, tmp_path: Path) -> None:
    clone = Scratch(tmp_path / "clone", tmp_path / "clone-cache")
    shutil.copytree(project.root, clone.root)
    for path in clone.root.rglob("*"):
        if path.is_file():
            path.chmod(0o700 if os.access(path, os.X_OK) else 0o600)
            os.utime(path, (1, 1))
    digests = set()
    for each in (project, clone):
        succeed(each.manage("migrate-code"))
        digests.add(json.loads(succeed(each.bench_kit("show-vs", "--json")))[0]["archive"])
    assert len(digests) == 1


def test_outside_of_a_project_the_commands_say_so(tmp_path: Path) -> None:
    outside = Scratch(tmp_path, tmp_path / "cache")
    for arguments in (["show-vs"], ["pull-vs", "1"], ["del-vs", "1", "--yes"], ["diff-vs", "1", "2"]):
        assert_refused(outside.bench_kit(*arguments), ProjectError, "benchkit.toml")
