"""Laws of making a project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchkit.errors import ProjectError, UsageError
from benchkit.project import scaffold
from benchkit.settings import S3Settings, load_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "project_template"


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read_settings(project: Path) -> dict[str, str]:
    project_table: dict[str, str] = tomllib.loads((project / "benchkit.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return project_table


def test_a_new_project_is_the_template_with_its_samples_unpacked(tmp_path: Path) -> None:
    project = scaffold.start_project(tmp_path, "my-digits_2")
    assert project == tmp_path / "my-digits_2"
    assert list(tmp_path.iterdir()) == [project]

    files = files_below(project)
    pictures = {name for name in files if name.startswith("Datasets/digits/") and name.endswith(".png")}
    assert len(pictures) == 1797
    assert files - pictures == {*scaffold.TEMPLATE_FILES, "benchkit.toml", "Datasets/digits/LICENSE.txt"}
    for name in scaffold.TEMPLATE_FILES:
        assert (project / name).read_bytes() == (TEMPLATE / name).read_bytes()
    assert read_settings(project) == {"id": "my-digits_2", "remote": "store"}


def test_a_new_project_can_be_entered_by_the_group_as_any_folder_made_here(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    project = scaffold.start_project(tmp_path, "p")
    assert project.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_template_is_itself_a_project_as_startproject_writes_it() -> None:
    assert (TEMPLATE / "benchkit.toml").read_text(encoding="utf-8") == scaffold.settings_text(
        "project_template", remote="store"
    )


def test_what_a_run_leaves_in_the_template_is_not_copied(tmp_path: Path) -> None:
    template = tmp_path / "template"
    for name in (
        *scaffold.TEMPLATE_FILES,
        "store/benchkit.json",
        "Datasets/__pycache__/x.pyc",
        ".benchkit/journal",
    ):
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        source = TEMPLATE / name
        (template / name).write_bytes(
            source.read_bytes() if name in scaffold.TEMPLATE_FILES else b"left over"
        )
    project = scaffold.start_project(tmp_path, "p", template=template)
    files = files_below(project)
    assert {*scaffold.TEMPLATE_FILES, "benchkit.toml"} <= files
    assert not {name for name in files if name.startswith(("store", ".benchkit/")) or "__pycache__" in name}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert (scaffold.start_project(tmp_path, "p") / "manage.py").is_file()


@pytest.mark.parametrize("kind", ["full folder", "file", "link", "dangling link", "project"])
def test_what_is_there_already_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "p"
    (tmp_path / "elsewhere").mkdir()
    match kind:
        case "full folder":
            target.mkdir()
            (target / "notes.txt").write_text("mine")
        case "file":
            target.write_text("mine")
        case "link":
            target.symlink_to(tmp_path / "elsewhere")
        case "dangling link":
            target.symlink_to(tmp_path / "nowhere")
        case "project":
            scaffold.start_project(tmp_path, "p")
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(ProjectError, match=f"{target} exists and is not an empty folder"):
        scaffold.start_project(tmp_path, "p")
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../a", "/a", "-a", "_a", "a b", "ä", "a\n", "a.b", "a" * 65, "a\x00", "a;rm"],
)
def test_a_bad_name_is_refused_saying_what_a_name_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no project name: 1 to 64 of"):
        scaffold.start_project(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    template = tmp_path / "template"
    for name in scaffold.TEMPLATE_FILES[:-1]:
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).write_bytes(b"")
    parent = tmp_path / "parent"
    parent.mkdir()
    with pytest.raises(ProjectError, match="cannot make the project"):
        scaffold.start_project(parent, "p", template=template)
    assert list(parent.iterdir()) == []


def test_a_parent_that_is_not_there_is_a_project_error(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="cannot make the project"):
        scaffold.start_project(tmp_path / "nowhere", "p")


@pytest.mark.parametrize(
    ("remote", "written"),
    [
        (None, "store"),
        ("file:///data/a b", "file:///data/a b"),
        ("/data/store", "/data/store"),
        ("../shared/store", "{parent}/../shared/store"),
        ('we"ird\\ü', '{parent}/we"ird\\ü'),
    ],
)
def test_the_remote_is_written_as_a_url_or_an_absolute_path(
    tmp_path: Path, remote: str | None, written: str
) -> None:
    project = scaffold.start_project(tmp_path, "p", remote=remote)
    expected = written.format(parent=tmp_path)
    assert read_settings(project)["remote"] == (os.path.normpath(expected) if "{" in written else expected)


@pytest.mark.parametrize("remote", ["", "a\nb", "a\x1b[2J"])
def test_a_remote_that_no_line_can_hold_is_refused(tmp_path: Path, remote: str) -> None:
    with pytest.raises(UsageError, match="is no remote"):
        scaffold.start_project(tmp_path, "p", remote=remote)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("remote", "reason"),
    [("ftp://host/store", "known are file://"), ("file://me:secret@host/store", "password")],
)
def test_a_remote_that_no_store_opens_is_refused_before_anything_is_made(
    tmp_path: Path, remote: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refusal:
        scaffold.start_project(tmp_path, "p", remote=remote)
    assert "secret" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_manage_works_on_its_own_folder_and_at_the_root_on_the_template(tmp_path: Path) -> None:
    project = scaffold.start_project(tmp_path, scaffold.TEMPLATE_FOLDER)
    assert scaffold.managed_project(project) == project
    assert scaffold.managed_project(tmp_path) == project
    with pytest.raises(ProjectError, match=r"benchkit\.toml is missing.*bench-kit startproject"):
        scaffold.managed_project(tmp_path / "elsewhere")


def test_a_fresh_clone_gets_its_samples_when_manage_first_runs(tmp_path: Path) -> None:
    template = tmp_path / scaffold.TEMPLATE_FOLDER
    for name in ("benchkit.toml", "Datasets/digits.zip"):
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).write_bytes((TEMPLATE / name).read_bytes())
    scaffold.managed_project(tmp_path)
    assert len(list((template / "Datasets/digits").glob("*/*.png"))) == 1797


S3_KEYS = {
    "endpoint_url": "https://s3.example.com:9000",
    "region": "eu-central-1",
    "profile": 'a "b\\ \u00fc]',
}


@pytest.mark.parametrize("keys", [[], ["endpoint_url"], ["region"], ["profile"], list(S3_KEYS)])
def test_a_remote_in_s3_is_written_with_the_keys_that_are_given_and_the_others_as_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str]
) -> None:
    for name in ("BENCHKIT_REMOTE", "BENCHKIT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    s3 = S3Settings(**{key: S3_KEYS[key] for key in keys})
    project = scaffold.start_project(tmp_path, "p", remote="s3://bucket/prefix", s3=s3 if keys else None)
    settings = load_settings(project)
    assert settings.remote_url == "s3://bucket/prefix"
    assert settings.s3 == s3
    lines = (project / "benchkit.toml").read_text(encoding="utf-8").splitlines()
    assert ("[s3]" if keys else "# [s3]") in lines
    assert [key for key in S3_KEYS if any(line.startswith(f"# {key} = ") for line in lines)] == [
        key for key in S3_KEYS if key not in keys
    ]


def test_what_is_a_comment_in_a_new_project_would_be_valid_without_its_mark(tmp_path: Path) -> None:
    text = scaffold.settings_text("p", remote="s3://bucket")
    marked = ("# [", "# dir =", "# limit_bytes =", *(f"# {key} =" for key in S3_KEYS))
    lines = [line[2:] if line.startswith(marked) else line for line in text.splitlines()]
    tables = tomllib.loads("\n".join(lines))
    assert tables.keys() == {"project", "cache", "s3"}
    assert S3Settings(**tables["s3"]).region == "eu-central-1"


@pytest.mark.parametrize("remote", [None, "/data/store", "file:///data/store", "s3bucket/prefix"])
def test_what_is_for_s3_is_refused_with_another_remote(tmp_path: Path, remote: str | None) -> None:
    with pytest.raises(UsageError, match="go with a remote of s3://bucket/prefix"):
        scaffold.start_project(tmp_path, "p", remote=remote, s3=S3Settings(region="eu-1"))
    assert list(tmp_path.iterdir()) == []
