"""Laws of profiles: kept for their owner alone, changed by one at a time, and never shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchkit import profiles
from benchkit.errors import BenchKitError, NotFoundError, ProjectError, UsageError
from benchkit.profiles import Profile, find_profile, get_profile, list_profiles, mask

SECRET, TOKEN = "secret-that-nobody-sees", "token-that-nobody-sees"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the user's own configuration, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    return tmp_path / "home/.config/benchkit"


def make(name: str = "work", **values: str) -> Profile:
    return Profile(**({"name": name, "access_key_id": "AKIA1234WORK", "secret_access_key": SECRET} | values))


def save(*names: str, use: str | None = None) -> None:
    for name in names:
        profiles.save_profile(make(name), use=name == use)


def test_what_is_saved_is_found_again_whole() -> None:
    whole = make("all", session_token=TOKEN, endpoint_url="https://s3.example.com:9000", region="eu-1")
    profiles.save_profile(whole, use=False)
    save("work", "b.c_d-E")
    assert list_profiles() == [whole, make("b.c_d-E"), make("work")]
    assert find_profile("all") == get_profile("all") == whole
    assert find_profile("alle") is None


def test_without_a_file_there_is_no_profile_and_asking_makes_none(folder: Path) -> None:
    assert list_profiles() == []
    assert find_profile(None) is None
    assert find_profile("work") is None
    with pytest.raises(NotFoundError, match="no profile 'work'; known are: none; bench-kit profile create"):
        get_profile("work")
    assert not folder.parent.exists()


def test_one_profile_is_in_use_until_it_is_removed() -> None:
    save("a", "b")
    assert find_profile(None) is None
    profiles.use_profile("a")
    assert find_profile(None) == make("a")
    save("b", use="b")
    assert find_profile(None) == make("b")
    profiles.remove_profile("a")
    assert find_profile(None) == make("b")
    profiles.remove_profile("b")
    assert find_profile(None) is None
    assert list_profiles() == []


def test_saving_under_a_name_replaces_what_had_it_and_leaves_it_in_use() -> None:
    save("a", use="a")
    changed = make("a", region="eu-1")
    profiles.save_profile(changed, use=False)
    assert list_profiles() == [changed]
    assert find_profile(None) == changed


@pytest.mark.parametrize("action", [profiles.use_profile, profiles.remove_profile, get_profile])
def test_an_unknown_name_is_answered_with_those_that_are_known(action, folder: Path) -> None:
    save("a", "b", use="a")
    before = (folder / "profiles.json").read_bytes()
    with pytest.raises(NotFoundError, match="there is no profile 'c'; known are: a, b"):
        action("c")
    assert (folder / "profiles.json").read_bytes() == before


def test_the_file_and_its_folder_are_their_owners_alone_whatever_the_umask(folder: Path) -> None:
    umask = os.umask(0)
    try:
        save("a")
        save("b")
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o666])
def test_a_file_that_others_may_open_is_neither_read_nor_written(folder: Path, mode: int) -> None:
    save("a")
    path = folder / "profiles.json"
    path.chmod(mode)
    for action in (list_profiles, lambda: save("b"), lambda: find_profile("a")):
        with pytest.raises(ProjectError, match=f'mode 0{mode:o}.*run "chmod 600 {path}"') as refused:
            action()
        assert SECRET not in str(refused.value)
    path.chmod(0o600)
    assert list_profiles() == [make("a")]
    path.chmod(0o400)
    assert list_profiles() == [make("a")]


def contents(**changes: object) -> dict[str, object]:
    keys = {"access_key_id": "AKIA1234WORK", "secret_access_key": SECRET}
    return {"format": 1, "in_use": None, "profiles": {"a": keys | changes}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"\xff",
        b"[" * 100_000,
        json.dumps(contents() | {"format": 2}).encode(),
        json.dumps(contents() | {"new": 1}).encode(),
        json.dumps(contents() | {"in_use": "b"}).encode(),
        json.dumps(contents() | {"in_use": ["a"]}).encode(),
        json.dumps(contents() | {"profiles": []}).encode(),
        json.dumps(contents() | {"profiles": {"a": None}}).encode(),
        json.dumps(contents() | {"profiles": {"a b": contents()["profiles"]["a"]}}).encode(),  # type: ignore[index]
        json.dumps(contents(name="a")).encode(),
        json.dumps(contents(unknown="x")).encode(),
        json.dumps(contents(secret_access_key=SECRET + "\n")).encode(),
        json.dumps(contents(secret_access_key=None)).encode(),
        json.dumps(contents(secret_access_key=5)).encode(),
        json.dumps(contents(region=5)).encode(),
        json.dumps(contents(session_token=[TOKEN])).encode(),
        json.dumps(contents(endpoint_url=f"https://{SECRET}@host")).encode(),
        json.dumps(contents())[:-20].encode(),
    ],
)
def test_a_broken_file_is_told_with_a_remedy_and_nothing_of_it(folder: Path, data: bytes) -> None:
    folder.mkdir(parents=True)
    path = folder / "profiles.json"
    path.write_bytes(data)
    path.chmod(0o600)
    for action in (list_profiles, lambda: save("b")):
        with pytest.raises(
            ProjectError, match=f"{path} is no file of profiles .*bench-kit configure"
        ) as refused:
            action()
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__
        assert "nobody-sees" not in str(refused.value)
    assert path.read_bytes() == data


def test_a_folder_that_cannot_be_made_or_a_file_that_cannot_be_read_is_a_project_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.parent.mkdir()
    folder.parent.write_text("in the way")
    with pytest.raises(ProjectError, match=r"profiles\.json cannot be written"):
        save("a")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    (tmp_path / "other/benchkit/profiles.json").mkdir(parents=True, mode=0o700)
    with pytest.raises(ProjectError, match=r"profiles\.json cannot be read"):
        list_profiles()


def test_what_a_killed_writer_left_is_no_obstacle_and_goes(folder: Path) -> None:
    save("a")
    left = folder / "profiles.new"
    left.write_text("half")
    save("b")
    assert not left.exists()
    assert [profile.name for profile in list_profiles()] == ["a", "b"]


def test_profiles_saved_by_several_processes_at_once_are_all_there() -> None:
    program = (
        "import sys; from benchkit.profiles import *\n"
        "for number in range(10):\n"
        "    name = f'{sys.argv[1]}-{number}'\n"
        "    save_profile(Profile(name=name, access_key_id='k', secret_access_key='s'), use=True)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(3)]
    while any(writer.poll() is None for writer in writers):
        list_profiles()  # is whole whenever it is read
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert [profile.name for profile in list_profiles()] == [f"{w}-{n}" for w in range(3) for n in range(10)]


def test_nothing_secret_is_in_a_repr() -> None:
    profile = make(session_token=TOKEN)
    assert "AKIA1234WORK" in repr(profile)
    assert "nobody-sees" not in repr(profile) + str(profile)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": ""}, "'' is no profile name: 1 to 64"),
        ({"name": "a b"}, "no profile name"),
        ({"name": "a/b"}, "no profile name"),
        ({"name": "ä"}, "no profile name"),
        ({"name": "a\n"}, "no profile name"),
        ({"name": "a" * 65}, "no profile name"),
        ({"access_key_id": ""}, "an access key id is printable ASCII"),
        ({"access_key_id": "nobody-sees it"}, "an access key id"),
        ({"secret_access_key": ""}, "a secret access key"),
        ({"secret_access_key": "nobody-sees\n"}, "a secret access key"),
        ({"secret_access_key": "nobody-sees-\u00fc"}, "a secret access key"),
        ({"session_token": ""}, "a session token"),
        ({"session_token": "nobody-sees\x00"}, "a session token"),
        ({"endpoint_url": "s3.example.com"}, "an endpoint is the URL of a service"),
        ({"endpoint_url": "https://nobody-sees:x@host"}, "must not carry a user or a password"),
        ({"region": "eu west"}, "'eu west' is no region"),
        ({"region": ""}, "'' is no region"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_and_keys_not_repeated(
    values: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        make(**values)
    assert "nobody-sees" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "shown"),
    [("AKIAIOSFODNN7EXAMPLE", "****MPLE"), ("12345678", "****5678"), ("1234567", "****"), ("", "****")],
)
def test_a_mask_shows_four_characters_of_a_key_that_has_twice_as_many(key: str, shown: str) -> None:
    assert mask(key) == shown


def test_every_failure_is_an_error_of_the_project(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "profiles.json").symlink_to(folder / "profiles.json")
    with pytest.raises(BenchKitError, match="cannot be read"):
        list_profiles()
