"""The settings: where the project is, what its file says, and what the environment overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchkit.errors import ProjectError, UsageError
from benchkit.settings import (
    DEFAULT_CACHE_LIMIT_BYTES,
    SETTINGS_NAME,
    S3Settings,
    Settings,
    check_endpoint,
    check_region,
    child_environment,
    config_dir,
    environment_has_credentials,
    find_project,
    load_settings,
    read_local_world,
    read_world,
)

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
NAMES = (
    "BENCHKIT_PROJECT",
    "BENCHKIT_REMOTE",
    "BENCHKIT_CACHE_DIR",
    "BENCHKIT_CACHE_LIMIT_BYTES",
    "BENCHKIT_PROFILE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    *CREDENTIALS,
    "RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
)
MINIMAL = '[project]\nid = "trial"\nremote = "store"\n'


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write_settings(folder: Path, text: str = MINIMAL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_NAME).write_text(text, encoding="utf-8")
    return folder


def test_the_project_is_the_nearest_folder_upward_with_a_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = write_settings(tmp_path / "outer")
    inner = write_settings(outer / "a" / "inner")
    deep = inner / "b" / "c"
    deep.mkdir(parents=True)
    assert find_project(deep) == inner
    assert find_project(inner) == inner
    assert find_project(outer / "a") == outer
    monkeypatch.chdir(deep)
    assert find_project() == inner
    assert find_project(Path("..")) is not None
    assert load_settings().project == inner


def test_a_start_above_the_current_folder_does_not_find_a_project_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = write_settings(tmp_path / "outer")
    monkeypatch.chdir(write_settings(outer / "inner"))
    assert find_project(Path("..")) == outer


def test_a_folder_named_like_the_settings_file_is_no_project(tmp_path: Path) -> None:
    outer = write_settings(tmp_path / "outer")
    (outer / "inner" / SETTINGS_NAME).mkdir(parents=True)
    assert find_project(outer / "inner") == outer


def test_the_environment_names_the_project_whatever_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = write_settings(tmp_path / "here"), write_settings(tmp_path / "there")
    monkeypatch.chdir(here)
    monkeypatch.setenv("BENCHKIT_PROJECT", str(there))
    assert find_project() == there
    assert find_project(here) == there
    monkeypatch.setenv("BENCHKIT_PROJECT", "../there/../there")
    assert find_project().resolve() == there
    monkeypatch.setenv("BENCHKIT_PROJECT", "")
    assert find_project() == here
    monkeypatch.setenv("BENCHKIT_PROJECT", str(tmp_path))
    with pytest.raises(ProjectError, match="BENCHKIT_PROJECT names"):
        find_project()


def test_no_project_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"no benchkit\.toml in .* startproject"):
        find_project()
    with pytest.raises(ProjectError, match="is missing"):
        load_settings(tmp_path)


def test_a_minimal_file_gives_the_defaults(tmp_path: Path) -> None:
    project = write_settings(tmp_path / "project")
    assert load_settings(project) == Settings(
        project=project,
        project_id="trial",
        remote="store",
        cache_dir=tmp_path / "home" / ".cache" / "benchkit",
        cache_limit_bytes=DEFAULT_CACHE_LIMIT_BYTES,
    )
    assert load_settings(project).staging == project / "ProjectDatasets"


def test_the_file_sets_the_cache(tmp_path: Path) -> None:
    project = write_settings(
        tmp_path / "project", MINIMAL + '[cache]\ndir = "caché/x"\nlimit_bytes = 1_000\n'
    )
    settings = load_settings(project)
    assert settings.cache_dir == project / "caché" / "x"
    assert settings.cache_limit_bytes == 1000


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_settings(tmp_path / "project", MINIMAL + '[cache]\ndir = "file"\nlimit_bytes = 1\n')
    monkeypatch.setenv("BENCHKIT_REMOTE", "file:///remote")
    monkeypatch.setenv("BENCHKIT_CACHE_DIR", "~/cache")
    monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", "12345")
    settings = load_settings(project)
    assert settings.remote == settings.remote_url == "file:///remote"
    assert settings.cache_dir == tmp_path / "home" / "cache"
    assert settings.cache_limit_bytes == 12345


def test_empty_variables_are_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_settings(tmp_path / "project", MINIMAL + '[cache]\ndir = "file"\nlimit_bytes = 1\n')
    expected = load_settings(project)
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert load_settings(project) == expected


def test_the_cache_is_below_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert load_settings(write_settings(tmp_path)).cache_dir == Path("/xdg/benchkit")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert load_settings(tmp_path).cache_dir == tmp_path / "home" / ".cache" / "benchkit"


@pytest.mark.parametrize(
    "text",
    [MINIMAL + '[cache]\ndir = "~no-such-user/c"\n', MINIMAL.replace('"store"', '"~no-such-user/store"')],
)
def test_a_home_folder_that_is_not_known_is_refused_naming_what_to_write(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProjectError, match=r"'~no-such-user/.*write a whole path"):
        _ = load_settings(write_settings(tmp_path, text)).remote_url


@pytest.mark.parametrize("limit", ["0", "-1", "ten", "1.5", "²", "1e3", "9" * 5000])
def test_a_cache_limit_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    project = write_settings(tmp_path / "project", MINIMAL + "[cache]\nlimit_bytes = 7\n")
    monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", limit)
    with pytest.raises(ProjectError, match=r"limit|LIMIT"):
        load_settings(project)


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("store", "file:///p/store"),
        ("sub/sto re", "file:///p/sub/sto%20re"),
        ("/elsewhere", "file:///elsewhere"),
        ("file:///x/y", "file:///x/y"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("über#", "file:///p/%C3%BCber%23"),
    ],
)
def test_a_path_becomes_an_absolute_url_from_the_projects_folder(remote: str, url: str) -> None:
    settings = Settings(
        project=Path("/p"), project_id="i", remote=remote, cache_dir=Path("/c"), cache_limit_bytes=1
    )
    assert settings.remote_url == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lacks the key 'id'"),
        ('[project]\nid = "x"\n', "lacks the key 'remote'"),
        ('[project]\nid = ""\nremote = "store"\n', "lacks the key 'id'"),
        ("not toml", "is no TOML"),
        (MINIMAL + "[other]\nx = 1\n", "unknown part 'other'"),
        ('id = "x"\n' + MINIMAL, "unknown part 'id'"),
        ("project = 1\n", "unknown part 'project'"),
        (MINIMAL + "[cache]\nsize = 1\n", "unknown key 'size' in .cache.; it takes: dir, limit_bytes"),
        ("[project]\nid = 1\n", "'id' in .project. is 1, not text in quotes"),
        (MINIMAL + "[cache]\nlimit_bytes = true\n", "is True, not a whole number"),
        (MINIMAL + "[cache]\nlimit_bytes = 0\n", "limit_bytes under .cache. of benchkit.toml to at least 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_naming_the_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ProjectError, match=says):
        load_settings(write_settings(tmp_path, text))


def test_a_file_that_is_no_utf8_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_NAME).write_bytes(b'[project]\nid = "\xff"\n')
    with pytest.raises(ProjectError, match="is no TOML"):
        load_settings(tmp_path)
    (tmp_path / SETTINGS_NAME).unlink()
    (tmp_path / SETTINGS_NAME).mkdir()
    with pytest.raises(ProjectError, match="cannot be read"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [
        ("0", "1", (0, 1)),
        ("3", "8", (3, 8)),
        (None, None, None),
        ("1", None, None),
        (None, "2", None),
        ("", "", None),
        ("-1", "2", None),
        ("²", "4", None),
    ],
)
def test_rank_and_world_are_read_as_launchers_set_them(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, world: str | None, expected: tuple[int, int] | None
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert read_world() == expected


@pytest.mark.parametrize(("text", "expected"), [(None, 1), ("", 1), ("4", 4), ("0", 1), ("x", 1), ("²", 1)])
def test_processes_of_this_machine_are_one_where_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, text: str | None, expected: int
) -> None:
    if text is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    assert read_local_world() == expected


def test_a_childs_variables_come_before_the_environment_and_that_before_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BENCHKIT_REMOTE", "mine")
    monkeypatch.setenv("BENCHKIT_CACHE_DIR", "mine")
    given = child_environment(
        {"BENCHKIT_REMOTE": "set"}, defaults={"BENCHKIT_CACHE_DIR": "default", "RANK": "default"}
    )
    assert given["BENCHKIT_REMOTE"] == "set"
    assert given["BENCHKIT_CACHE_DIR"] == "mine"
    assert given["RANK"] == "default"
    assert given["HOME"]


S3 = """
[s3]
endpoint_url = "https://s3.example.com:9000"
region = "eu-central-1"
profile = "work"
addressing = "path"
checksums = "when_required"
server_side_encryption = "aws:kms"
kms_key_id = "arn:aws:kms:eu-central-1:1:key/2"
attempts = 3
stall_timeout_seconds = 7
"""


def test_the_file_says_how_s3_is_spoken_to_and_otherwise_the_defaults_hold(tmp_path: Path) -> None:
    assert load_settings(write_settings(tmp_path)).s3 == S3Settings()
    assert load_settings(write_settings(tmp_path, MINIMAL + "[s3]\n")).s3 == S3Settings()
    assert load_settings(write_settings(tmp_path, MINIMAL + S3)).s3 == S3Settings(
        endpoint_url="https://s3.example.com:9000",
        region="eu-central-1",
        profile="work",
        addressing="path",
        checksums="when_required",
        server_side_encryption="aws:kms",
        kms_key_id="arn:aws:kms:eu-central-1:1:key/2",
        attempts=3,
        stall_timeout_seconds=7,
    )
    assert load_settings(write_settings(tmp_path, MINIMAL + "[s3]\nanonymous = true\n")).s3.anonymous


def test_a_profile_of_the_environment_comes_before_the_files_and_before_anonymous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_settings(tmp_path / "named", MINIMAL + S3)
    public = write_settings(tmp_path / "public", MINIMAL + "[s3]\nanonymous = true\n")
    monkeypatch.setenv("BENCHKIT_PROFILE", "other")
    assert load_settings(project).s3.profile == "other"
    assert load_settings(project).s3.region == "eu-central-1"
    assert load_settings(public).s3 == S3Settings(profile="other")
    monkeypatch.setenv("BENCHKIT_PROFILE", "oth\x1ber")
    with pytest.raises(ProjectError, match=r"BENCHKIT_PROFILE cannot be used: profile is 'oth\\x1ber'"):
        load_settings(project)
    monkeypatch.setenv("BENCHKIT_PROFILE", "")
    assert load_settings(project).s3.profile == "work"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'secret_access_key = "x"',
            "unknown key 'secret_access_key' in .s3.; it takes: endpoint_url, region",
        ),
        ('anonymous = "yes"', "'anonymous' in .s3. is 'yes', not true or false"),
        ('addressing = "host"', "addressing is 'host'; it is one of: auto, path, virtual"),
        ('checksums = "never"', "checksums is 'never'; it is one of: when_supported, when_required"),
        ('endpoint_url = "s3.example.com"', "an endpoint is the URL of a service"),
        ('endpoint_url = ""', "an endpoint is the URL of a service"),
        ('region = "eu west"', "'eu west' is no region"),
        ('region = ""', "'' is no region"),
        ('profile = ""', "profile is ''; leave it out"),
        ('server_side_encryption = "a\\n"', "server_side_encryption is 'a.*leave it out"),
        ('kms_key_id = "k"', "kms_key_id goes with server_side_encryption"),
        ('kms_key_id = "k"\nserver_side_encryption = "AES256"', "kms_key_id goes with"),
        ("attempts = 0", "attempts is 0; it is 1 to 100"),
        ("attempts = 101", "attempts is 101"),
        ("stall_timeout_seconds = 0", "stall_timeout_seconds is 0; it is 1 to 3600"),
        ("stall_timeout_seconds = 3601", "stall_timeout_seconds is 3601"),
        ('anonymous = true\nprofile = "work"', "anonymous reading takes no profile"),
    ],
)
def test_what_s3_cannot_be_set_to_is_refused_naming_file_and_key(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ProjectError, match=f"{SETTINGS_NAME}.*{says}"):
        load_settings(write_settings(tmp_path, f"{MINIMAL}[s3]\n{text}\n"))


@pytest.mark.parametrize(
    "url",
    ["https://s3.example.com", "http://127.0.0.1:9000", "http://[::1]:80/", "https://h:443/", "https://h/s3"],
)
def test_an_endpoint_is_the_url_of_a_service(url: str) -> None:
    assert check_endpoint(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "host:9000",
        "//host",
        "ftp://host",
        "s3://bucket",
        "https://",
        "https://host?",
        "https://host?secret",
        "https://host#secret",
        "https://host:secret",
        "https://host:99999",
        "https://ho st",
        "https://host\n",
        "https://host\x1b[2J",
        "https://[::1",
        "https://user:secret@host",
        "https://secret@host:9000",
        "https://@host",
    ],
)
def test_anything_else_is_no_endpoint_and_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="an endpoint") as refused:
        check_endpoint(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("region", ["us-east-1", "RegionOne", "a", "a" * 63])
def test_a_region_is_a_name(region: str) -> None:
    assert check_region(region) == region


@pytest.mark.parametrize("region", ["", "-a", "a-", "a.b", "a_b", "a b", "a\n", "\u00e4", "a" * 64])
def test_what_no_region_is_named_is_refused(region: str) -> None:
    with pytest.raises(UsageError, match="is no region"):
        check_region(region)


def test_the_users_configuration_is_below_its_standard_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_dir() == tmp_path / "home/.config/benchkit"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert config_dir() == tmp_path / "home/.config/benchkit"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/xdg")
    assert config_dir() == Path("/xdg/benchkit")


@pytest.mark.parametrize("name", CREDENTIALS)
def test_the_environment_has_credentials_where_it_names_any(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not environment_has_credentials()
    monkeypatch.setenv(name, "")
    assert not environment_has_credentials()
    monkeypatch.setenv(name, "x")
    assert environment_has_credentials()
