"""The ignore rules: a pattern means what it means to git, and secrets stay out unless they are named."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
from pathlib import Path

import pytest

from benchkit.errors import ProjectError
from benchkit.project.ignore import read_rules

PATTERNS = [
    "a",
    "a/",
    "/a",
    "/a/",
    "b",
    "*",
    "*/",
    "*.x",
    "/*",
    "a/b",
    "/a/b/",
    "a/*",
    "a/**",
    "**/b",
    "**/a/b",
    "?.x",
    "[ab]",
    "\\!a",
    "/b/*",
    "#c",
    "!a",
    "!a/",
    "!/a",
    "!b",
    "!*/",
    "!*.x",
    "!/a/b",
    "!a/b/",
    "!a/*",
    "!**/b",
    "!/b/",
    "!b/*",
    "!a.x",
    "",
    "a  ",
]


def walk(root: Path) -> list[str]:
    """Return the files that the rules leave in, as whoever packs them walks."""
    rules, found = read_rules(root), []

    def enter(folder: str) -> None:
        for entry in os.scandir(root / folder):
            path = folder + entry.name
            if rules.verdict(path, is_folder=entry.is_dir()) is None:
                if entry.is_dir():
                    enter(f"{path}/")
                else:
                    found.append(path)

    enter("")
    return sorted(found)


def test_patterns_mean_what_they_mean_to_git(tmp_path: Path) -> None:
    try:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    except FileNotFoundError:
        pytest.skip("no git here to compare with")
    for first, second in itertools.product("ab", repeat=2):
        (tmp_path / first / second / "a").mkdir(parents=True)
        for name in ("f", "a.x", "b.x", "a/f", "b"):
            (tmp_path / first / second / name).write_bytes(b"")
        for name in ("f", "a.x", "b.x"):
            (tmp_path / first / name).write_bytes(b"")
    choose = random.Random(7)
    for _ in range(150):
        lines = [choose.choice(PATTERNS) for _ in range(choose.randint(1, 4))]
        (tmp_path / ".benchkitignore").write_text("\n".join(lines) + "\n")
        command = ["git", "-C", tmp_path, "ls-files", "-o", "--exclude-from", tmp_path / ".benchkitignore"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert walk(tmp_path) == sorted(listed), lines


def rules_for(tmp_path: Path, *lines: str):  # type: ignore[no-untyped-def]
    (tmp_path / ".benchkitignore").write_text("\n".join(lines))
    return read_rules(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        "deep/er/.env",
        ".env.local",
        "prod.env",
        "server.pem",
        "certs/x.key",
        "id_rsa",
        "id_ed25519",
        "credentials.json",
        "credentials",
        "aws-credentials.json",
        "secrets.toml",
        "secrets.yaml",
        "secret.yaml",
        ".secrets",
        "prod.env.local",
        "hf_token",
        ".huggingface_token",
        "token.json",
        "aws_credentials.csv",
        "apikey.txt",
        "my_api_key.txt",
        "passwords.txt",
        ".netrc",
        "client_secret_12.json",
        "my-service-account.json",
        "kaggle.json",
        ".pypirc",
        "hf.token",
        "a.p12",
    ],
)
def test_secrets_are_left_out_as_such(path: str, tmp_path: Path) -> None:
    assert read_rules(tmp_path).verdict(path, is_folder=False) == "secret"


@pytest.mark.parametrize("path", [".ssh", "home/.aws", ".kube"])
def test_folders_of_secrets_are_left_out_as_a_whole(path: str, tmp_path: Path) -> None:
    assert read_rules(tmp_path).verdict(path, is_folder=True) == "secret"


@pytest.mark.parametrize(
    "path",
    [
        "manage.py",
        "benchkit.toml",
        ".benchkitignore",
        ".env.example",
        "credentials.py",
        "secrets.py",
        "environment.yml",
        "tokens.py",
        "tokenizer.json",
        "token.py",
        "api_key.py",
        "Datasets/digits.zip",
        "src/data/load.py",
        "src/store/a.py",
        "keys.py",
    ],
)
def test_code_is_left_in(path: str, tmp_path: Path) -> None:
    rules = read_rules(tmp_path)
    parts = path.split("/")
    for depth in range(1, len(parts)):
        assert rules.verdict("/".join(parts[:depth]), is_folder=True) is None
    assert rules.verdict(path, is_folder=False) is None


@pytest.mark.parametrize(
    "path",
    [
        "data",
        ".data",
        "ProjectDatasets",
        "store",
        ".benchkit",
        ".git",
        ".venv",
        "venv",
        "checkpoints",
        "__pycache__",
        "src/__pycache__",
        ".mypy_cache",
        "x.egg-info",
        "src/.ipynb_checkpoints",
        "dist",
    ],
)
def test_what_is_no_code_anywhere_is_left_out(path: str, tmp_path: Path) -> None:
    assert read_rules(tmp_path).verdict(path, is_folder=True) == "no code"


def test_a_secret_is_packed_only_if_it_is_named_itself(tmp_path: Path) -> None:
    rules = rules_for(tmp_path, "!/certs/", "!/data/")
    assert rules.verdict("certs", is_folder=True) is None
    assert rules.verdict("data", is_folder=True) is None
    assert rules.verdict("certs/server.pem", is_folder=False) == "secret"
    named = rules_for(tmp_path, "!/certs/public.pem")
    assert named.verdict("certs/public.pem", is_folder=False) is None
    assert named.verdict("certs/server.pem", is_folder=False) == "secret"
    assert rules_for(tmp_path, "*.pem").verdict("certs/server.pem", is_folder=False) == "own"


def test_no_rule_brings_back_what_can_be_no_code(tmp_path: Path) -> None:
    (tmp_path / ".benchkitignore").write_text("!*/\n!.git\n!/chunks/\n")
    rules = read_rules(tmp_path, also=["chunks"])
    for name in (".git", "src/.git", ".benchkit", "chunks"):
        assert rules.verdict(name, is_folder=True) == "no code"
    assert rules.verdict("store", is_folder=True) is None


def test_paths_that_settings_name_are_taken_to_the_letter(tmp_path: Path) -> None:
    names = ["my store[1]", "#a", "!b", "a*"]
    rules = read_rules(tmp_path, also=names)
    for name in names:
        assert rules.verdict(name, is_folder=True) == "no code", name
    assert rules.verdict("my store1", is_folder=True) is None
    assert rules.verdict("ab", is_folder=True) is None
    assert rules.verdict("src/a*", is_folder=True) is None


def test_a_line_that_is_no_pattern_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"\.benchkitignore, line 2: .* is no pattern"):
        rules_for(tmp_path, "*.log", "a\\")
    (tmp_path / ".benchkitignore").write_bytes(b"\xff\xfe")
    with pytest.raises(ProjectError, match="cannot be read"):
        read_rules(tmp_path)
