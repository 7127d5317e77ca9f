"""Which store a URL opens, and which URLs are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchkit.errors import UsageError
from benchkit.settings import S3Settings, load_settings
from benchkit.store.local import LocalStore
from benchkit.store.s3 import S3Store
from benchkit.store.urls import check_url, open_remote, open_store


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("file:///a/b", "/a/b"),
        ("file://localhost/a/b", "/a/b"),
        ("file:///with%20space/%C3%BC", "/with space/ü"),
        ("file:///a#b?c=d", "/a#b?c=d"),
        ("file:///a@b/c", "/a@b/c"),
        ("/a/b", "/a/b"),
        ("/with%20percent", "/with%20percent"),
        ("relative/folder", "/base/relative/folder"),
        ("a@b", "/base/a@b"),
        ("./file:/single", "/base/file:/single"),
    ],
)
def test_a_url_or_path_opens_its_folder(url: str, root: str) -> None:
    assert open_store(url, base=Path("/base")) == LocalStore(Path(root))
    assert check_url(url) == url


def test_without_a_base_a_relative_path_begins_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("store") == LocalStore(tmp_path / "store")


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert open_store("~/store", base=Path("/base")) == LocalStore(Path("/home/someone/store"))


@pytest.mark.parametrize("folder", ["plain", "sp ace", "ü ß 日本", "a#b?c%20d@e", "undecodable\udcff"])
def test_the_url_of_a_store_opens_it_again(tmp_path: Path, folder: str) -> None:
    store = LocalStore(tmp_path / folder)
    store.write("a", b"data")
    assert open_store(store.url).read("a") == b"data"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("file:/single", "is no URL"),
        ("s3:/bucket/prefix", "is no URL"),
        ("file:///a%00b", "NUL"),
        ("gopher://host/x", "gopher:// is no store"),
        ("FILE:///a", "FILE:// is no store"),
        ("://x", "no store"),
        ("file://user:secret@host/a", "must not carry"),
        ("file://user@/a", "must not carry"),
        ("file://user:a/secret@host/a", "three slashes"),
        ("user:secret@host://a", "no store"),
        ("file://host/a", "three slashes"),
        ("file://relative", "three slashes"),
        ("file://", "three slashes"),
        ("file://localhost", "three slashes"),
        ("s3://key:secret@bucket/a", "must not carry"),
        ("s3://key@bucket", "must not carry"),
        ("s3://", "name of a bucket"),
        ("s3:///a", "name of a bucket"),
        ("s3://ab", "name of a bucket"),
        ("s3://-bucket", "name of a bucket"),
        ("s3://bucket:9000/a", "name of a bucket"),
        ("s3://" + "b" * 64, "name of a bucket"),
        ("s3://bucket//a", "no prefix"),
        ("s3://bucket/a//", "no prefix"),
        ("s3://bucket/a/../b", "no prefix"),
        ("s3://bucket/a\\b", "no prefix"),
        ("s3://bucket/a\nb", "no prefix"),
        ("s3://bucket/a?versionId=1", "no prefix"),
        ("s3://bucket/a#b", "no prefix"),
        ("S3://bucket/a", "no store"),
    ],
)
def test_what_no_store_can_be_opened_at_is_refused_without_repeating_a_password(url: str, says: str) -> None:
    for refuse in (check_url, open_store):
        with pytest.raises(UsageError, match=says) as caught:
            refuse(url)
        assert "secret" not in str(caught.value)


def test_a_path_below_an_unknown_home_is_refused() -> None:
    with pytest.raises(UsageError, match="home folder"):
        open_store("~no-such-user/store")


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://bucket/a/b", "bucket", "a/b"),
        ("s3://bucket/a/b/", "bucket", "a/b"),
        ("s3://my.bucket-1_x/sp ace/ü%20", "my.bucket-1_x", "sp ace/ü%20"),
        ("s3://bucket/a@b:c", "bucket", "a@b:c"),
    ],
)
def test_an_s3_url_is_a_bucket_and_what_its_keys_begin_with(url: str, bucket: str, prefix: str) -> None:
    store = open_store(url, base=Path("/base"))
    assert store == S3Store(bucket, prefix, S3Settings())
    assert store.url == url.removesuffix("/")
    assert open_store(store.url) == store
    assert check_url(url) == url


def test_the_remote_of_a_project_is_spoken_to_as_its_settings_say(project: Path) -> None:
    text = '[project]\nid = "cats"\nremote = "s3://bucket/cats"\n[s3]\nregion = "eu-west-3"\nattempts = 2\n'
    (project / "benchkit.toml").write_text(text)
    settings = S3Settings(region="eu-west-3", attempts=2)
    assert open_remote(load_settings()) == S3Store("bucket", "cats", settings)
    (project / "benchkit.toml").write_text('[project]\nid = "cats"\nremote = "store"\n')
    assert open_remote(load_settings()).url == (project / "store").as_uri()
