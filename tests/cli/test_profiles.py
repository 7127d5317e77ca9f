"""Laws of `configure`, `profile` and `logout`, run as users run them: no key is ever shown."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
from pathlib import Path

import pytest
from support.scratch import BENCH_KIT, Scratch, assert_refused, table_rows

from benchkit.errors import NotFoundError, ProjectError, UsageError
from benchkit.profiles import Profile, find_profile, list_profiles, save_profile

KEY, SECRET, TOKEN = "AKIA-of-example-1234", "secret-that-nobody-sees", "token-that-nobody-sees"
ENDPOINT = "https://s3.example.com"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the user's own configuration; the environment has no credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config/benchkit"


@pytest.fixture
def user(tmp_path: Path) -> Scratch:
    """Return a project to run commands in; no profile takes a project."""
    return Scratch.make(tmp_path / "scratch", files=0)


def piped(user: Scratch, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run `bench-kit …` with a text on stdin, and see that no secret is in its output."""
    done = subprocess.run(
        [BENCH_KIT, *arguments],
        input=text,
        cwd=user.root,
        env=user.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "nobody-sees" not in done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    return done


def talk(user: Scratch, arguments: list[str], dialogue: list[tuple[str, str]]) -> tuple[int, str]:
    """Run `bench-kit …` on a terminal, typing each answer when its question is there.

    Returns:
        The exit code, and all that the terminal showed.
    """
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [BENCH_KIT, *arguments],
        cwd=user.root,
        env=user.environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    shown, seen = "", 0
    try:
        while select.select([leader], [], [], 30)[0]:
            block = os.read(leader, 4096)
            shown += block.decode()
            if dialogue and dialogue[0][0] in shown[seen:]:
                seen = len(shown)
                os.write(leader, dialogue.pop(0)[1].encode() + b"\n")
        process.kill()
        raise AssertionError(f"it waits for something else: {shown}")
    except OSError:  # what Linux says when the other end is closed
        code = process.wait(60)
    os.close(leader)
    assert not dialogue, shown
    assert "nobody-sees" not in shown
    return code, shown


def save(name: str, *, use: bool = False, **values: str) -> Profile:
    profile = Profile(**({"name": name, "access_key_id": KEY, "secret_access_key": SECRET} | values))
    save_profile(profile, use=use)
    return profile


def test_configure_asks_saves_and_shows_keys_masked(user: Scratch, folder: Path) -> None:
    code, shown = talk(
        user,
        ["configure"],
        [
            ("Profile name [default]: ", ""),
            ("Access key id: ", KEY),
            ("Secret access key: ", SECRET),
            ("Endpoint URL, empty for AWS", ENDPOINT),
            ("Region, may be empty", ""),
        ],
    )
    assert code == 0, shown
    assert find_profile(None) == Profile(
        name="default", access_key_id=KEY, secret_access_key=SECRET, endpoint_url=ENDPOINT
    )
    assert f"saved the profile default in {folder / 'profiles.json'}" in shown
    assert "****1234" in shown
    assert "it is in use" in shown


def test_configure_asks_again_for_what_cannot_be_meant(user: Scratch) -> None:
    code, shown = talk(
        user,
        ["configure", "--region", "eu-1"],
        [
            ("Profile name [default]: ", "a b"),
            ("'a b' is no profile name", "a"),
            ("Access key id: ", KEY),
            ("Secret access key: ", "two words"),
            ("Secret access key: ", SECRET),
            ("Endpoint URL, empty for AWS", "s3.example.com"),
            ("an endpoint is the URL of a service", ENDPOINT),
        ],
    )
    assert code == 0, shown
    assert "two words" not in shown
    assert find_profile("a") == Profile(
        name="a", access_key_id=KEY, secret_access_key=SECRET, endpoint_url=ENDPOINT, region="eu-1"
    )


def test_configure_again_offers_what_is_saved(user: Scratch) -> None:
    old = save("work", session_token=TOKEN, endpoint_url=ENDPOINT, region="eu-1")
    questions = [
        ("Access key id [****1234]: ", ""),
        ("Secret access key [as saved]: ", ""),
        (f"Endpoint URL [{ENDPOINT}]: ", ""),
        ("Region [eu-1]: ", "eu-2"),
    ]
    code, shown = talk(user, ["configure", "--profile", "work"], questions)
    assert code == 0, shown
    assert find_profile(None) == Profile(
        name="work",
        access_key_id=KEY,
        secret_access_key=SECRET,
        session_token=TOKEN,
        endpoint_url=old.endpoint_url,
        region="eu-2",
    )


def test_a_saved_secret_is_not_offered_for_another_key(user: Scratch) -> None:
    save("work", session_token=TOKEN)
    questions = [
        ("Access key id [****1234]: ", "AKIA-another"),
        ("Secret access key: ", TOKEN),
        ("Endpoint URL", ""),
        ("Region", ""),
    ]
    code, shown = talk(user, ["configure", "--profile", "work"], questions)
    assert code == 0, shown
    assert find_profile("work") == Profile(name="work", access_key_id="AKIA-another", secret_access_key=TOKEN)


def test_a_session_token_goes_with_the_secret_that_it_was_saved_with(user: Scratch) -> None:
    save("work", session_token=TOKEN)
    questions = [
        ("Access key id [****1234]: ", ""),
        ("Secret access key [as saved]: ", f"{SECRET}-too"),
        ("Endpoint URL", ""),
        ("Region", ""),
    ]
    code, shown = talk(user, ["configure", "--profile", "work"], questions)
    assert code == 0, shown
    assert find_profile("work") == Profile(name="work", access_key_id=KEY, secret_access_key=f"{SECRET}-too")


@pytest.mark.parametrize(
    ("text", "token"),
    [(SECRET, None), (SECRET + "\n", None), (f"{SECRET}\r\n{TOKEN}\r\n", TOKEN), (f" {SECRET} \n\n", None)],
)
def test_without_a_terminal_the_secret_comes_from_stdin(user: Scratch, text: str, token: str | None) -> None:
    options = ["--access-key-id", KEY, "--secret-stdin", "--endpoint-url", ENDPOINT]
    done = piped(user, "configure", *options, text=text)
    assert (done.returncode, done.stderr) == (0, "")
    assert find_profile(None) == Profile(
        name="default",
        access_key_id=KEY,
        secret_access_key=SECRET,
        session_token=token,
        endpoint_url=ENDPOINT,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--access-key-id"),
        (["--access-key-id", KEY], "--secret-stdin"),
        (["--secret-stdin"], "--access-key-id"),
        (["--access-key-id", "", "--secret-stdin"], "an access key id"),
        (["--access-key-id", KEY, "--secret-stdin", "--endpoint-url", "host"], "an endpoint is the URL"),
        (["--access-key-id", KEY, "--secret-stdin", "--region", "a b"], "is no region"),
        (["--profile", "a b", "--access-key-id", KEY, "--secret-stdin"], "is no profile name"),
    ],
)
def test_without_a_terminal_nothing_is_guessed(
    user: Scratch, folder: Path, options: list[str], words: str
) -> None:
    assert_refused(piped(user, "configure", *options, text=SECRET), UsageError, words)
    assert not folder.exists()


def test_an_empty_stdin_is_no_secret(user: Scratch, folder: Path) -> None:
    done = piped(user, "configure", "--access-key-id", KEY, "--secret-stdin")
    assert_refused(done, UsageError, "a secret access key")
    assert not folder.exists()


def test_without_a_terminal_the_rest_stays_as_saved_and_an_empty_option_takes_it_away(
    user: Scratch,
) -> None:
    save("work", session_token=TOKEN, endpoint_url=ENDPOINT, region="eu-1")
    done = piped(user, "configure", "--profile", "work", "--endpoint-url", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert find_profile(None) == Profile(
        name="work", access_key_id=KEY, secret_access_key=SECRET, session_token=TOKEN, region="eu-1"
    )
    changed = piped(user, "configure", "--profile", "work", "--access-key-id", "AKIA-another")
    assert_refused(changed, UsageError, "--secret-stdin")


def test_a_secret_on_stdin_is_not_read_from_a_terminal(user: Scratch) -> None:
    code, shown = talk(user, ["configure", "--profile", "a", "--access-key-id", "k", "--secret-stdin"], [])
    assert code == UsageError.exit_code
    assert "leave it out, and you are asked" in shown


def test_no_option_takes_a_secret(user: Scratch) -> None:
    for command in (["configure"], ["profile", "create"]):
        done = piped(user, *command, "--help")
        assert done.returncode == 0
        assert "--secret-access-key" not in done.stdout
        assert "--secret-stdin" in done.stdout


@pytest.mark.parametrize("name", ["ls", "use", "create", "rm"])
def test_every_command_of_profile_has_help_with_an_example(user: Scratch, name: str) -> None:
    done = piped(user, "profile", name, "-h")
    assert done.returncode == 0
    assert f"Example: bench-kit profile {name}" in done.stdout


def test_profiles_are_made_listed_chosen_and_removed(user: Scratch) -> None:
    assert piped(user, "profile", "ls").stdout == "there is no profile; make one with: bench-kit configure\n"
    assert json.loads(piped(user, "profile", "ls", "--json").stdout) == []

    options = ["--access-key-id", KEY, "--secret-stdin"]
    first = piped(user, "profile", "create", "home", *options, text=SECRET)
    assert "it is in use" in first.stdout
    second = piped(user, "profile", "create", "work", *options, "--region", "eu-1", text=f"{SECRET}\n{TOKEN}")
    assert "to use it: bench-kit profile use work" in second.stdout
    listed = piped(user, "profile", "ls").stdout
    assert table_rows(listed) == [
        ["profile", "access key id", "endpoint", "region"],
        ["*", "home", "****1234", "AWS", "-"],
        ["work", "****1234", "AWS", "eu-1"],
    ]

    assert piped(user, "profile", "use", "work").stdout == "the profile work is in use\n"
    assert json.loads(piped(user, "profile", "ls", "--json").stdout) == [
        {
            "name": name,
            "in_use": name == "work",
            "access_key_id": "****1234",
            "session_token": name == "work",
            "endpoint_url": None,
            "region": "eu-1" if name == "work" else None,
        }
        for name in ("home", "work")
    ]

    removed = piped(user, "profile", "rm", "work", "--yes")
    assert removed.stdout.splitlines() == [
        "removed the profile work and its keys (access key id ****1234)",
        "no profile is in use now; to choose one: bench-kit profile use NAME",
    ]
    assert [profile.name for profile in list_profiles()] == ["home"]
    assert find_profile(None) is None


def test_create_does_not_replace_a_profile(user: Scratch) -> None:
    old = save("work")
    done = piped(user, "profile", "create", "work", "--access-key-id", "other", "--secret-stdin", text="s")
    assert_refused(done, UsageError, "bench-kit configure --profile work", "bench-kit profile rm work")
    assert list_profiles() == [old]


@pytest.mark.parametrize("command", ["use", "rm"])
def test_an_unknown_profile_is_answered_with_those_that_are_known(user: Scratch, command: str) -> None:
    save("home")
    done = piped(user, "profile", command, "hmoe")
    assert_refused(done, NotFoundError, "no profile 'hmoe'", "known are: home")


def test_removing_asks_first(user: Scratch) -> None:
    save("work", use=True)
    save("home")
    assert_refused(piped(user, "profile", "rm", "home"), UsageError, "profile rm home", "--yes")
    assert_refused(piped(user, "logout"), UsageError, "logout", "--yes")
    code, shown = talk(user, ["profile", "rm", "home"], [("Remove the profile home", "n")])
    assert code == 1
    assert "Aborted" in shown
    assert len(list_profiles()) == 2
    code, _ = talk(user, ["profile", "rm", "home"], [("Remove the profile home", "y")])
    assert code == 0
    assert [profile.name for profile in list_profiles()] == ["work"]


def test_logout_removes_the_profile_in_use_and_its_keys_and_no_other(user: Scratch, folder: Path) -> None:
    save("work", use=True, session_token=TOKEN)
    home = save("home", secret_access_key="another")  # noqa: S106
    done = piped(user, "logout", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("removed the profile work and its keys (access key id ****1234)\n")
    assert list_profiles() == [home]
    assert all(b"nobody-sees" not in path.read_bytes() for path in folder.iterdir())

    again = piped(user, "logout", "--yes")
    assert (again.returncode, again.stdout) == (0, "no profile is in use: there is nothing to remove\n")


def test_what_comes_before_the_profile_in_use_is_told(user: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "other")
    done = piped(user, "configure", "--access-key-id", KEY, "--secret-stdin", text=SECRET)
    assert "the AWS credentials in this shell's environment come before it" in done.stdout
    assert "environment are still there" in piped(user, "logout", "--yes").stdout


def test_a_file_that_others_can_read_is_refused_by_every_command(user: Scratch, folder: Path) -> None:
    save("work", use=True)
    (folder / "profiles.json").chmod(0o644)
    for command in (["profile", "ls"], ["profile", "use", "work"], ["logout", "--yes"], ["configure"]):
        assert_refused(piped(user, *command), ProjectError, f"chmod 600 {folder / 'profiles.json'}")


def test_commands_need_no_project(user: Scratch) -> None:
    (user.root / "benchkit.toml").unlink()
    assert piped(user, "profile", "ls").returncode == 0
    assert piped(user, "logout", "--yes").returncode == 0
