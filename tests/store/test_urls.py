"""Which store a URL opens, and which URLs are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchkit.errors import UsageError
from benchkit.store.local import LocalStore
from benchkit.store.urls import check_url, open_store


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
        ("file:/single", "/base/file:/single"),
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
