"""The ignore rules: which files of a folder are its code, by `.benchkitignore` and rules that always hold.

Patterns are those of `.gitignore`. Rules come one behind the other: what is hardly ever code, secrets, the
folder's own, and what can be no code at all. Of the rules that fit a path the last decides, so that the
folder's own can bring back what those before them leave out. With a folder all that lies in it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pathspec import GitIgnoreSpec

from benchkit.errors import ProjectError

IGNORE_FILE = ".benchkitignore"
OLDER_IGNORE_FILE = ".hafniaignore"

NO_CODE = (
    # data, staging, the default store, and what runs leave
    "/data/",
    "/.data/",
    "/ProjectDatasets/",
    "/store/",
    "/checkpoint/",
    "/checkpoints/",
    "*.ckpt",
    "/wandb/",
    "/mlruns/",
    "/lightning_logs/",
    # packages made of the folder
    "/trainer.zip",
    "/recipe.zip",
    # environments, caches, and what is built
    ".venv/",
    "/venv/",
    "node_modules/",
    "__pycache__/",
    "*.py[cod]",
    "*.egg-info/",
    "/build/",
    "/dist/",
    ".cache/",
    ".*_cache/",
    ".ipynb_checkpoints/",
    ".hypothesis/",
    ".tox/",
    ".nox/",
    ".coverage",
    ".DS_Store",
)
"""What is hardly ever code."""

NEVER_CODE = (".git", ".hg/", ".svn/", ".benchkit/", ".*.part/")
"""What no rule of a folder's own brings back; the last is what is being made, or was when its maker died."""

SECRETS = (
    ".env",
    ".env.*",
    "*.env",
    "*.env.local",
    ".envrc",
    "!.env.example",
    "!.env.sample",
    "!.env.template",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.ppk",
    "*.kdbx",
    "*.gpg",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    ".ssh/",
    ".aws/",
    ".azure/",
    ".gnupg/",
    ".kube/",
    ".docker/",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".pypirc",
    ".npmrc",
    ".htpasswd",
    ".git-credentials",
    ".vault-token",
    "*.token",
    "*[-_]token",
    "token.[jt]*",
    "*api[-_]key*.[ijty]*",
    "apikey*.[ijty]*",
    "password*.[ijty]*",
    "*.tfvars",
    "*.tfstate",
    "kaggle.json",
    "credentials",
    "credentials.[cijty]*",
    "*[-_]credentials.[cijty]*",
    ".secrets",
    "secret.[ijty]*",
    "secrets.[ijty]*",
    "client_secret*.json",
    "*service[-_]account*.json",
)
"""What is likely to hold a key or a password, as .csv, .ini, .json, .toml, .txt or .yaml, too."""

Group = Literal["no code", "secret", "own"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern, and the group that it belongs to."""

    text: str
    group: Group
    spec: GitIgnoreSpec

    @property
    def is_pattern(self) -> bool:
        """Whether there is one, and not only a comment."""
        return any(pattern.include is not None for pattern in self.spec.patterns)

    def decides(self, path: str, *, is_folder: bool) -> bool:
        """Return whether the pattern fits this very path, and not only a folder that it lies in.

        pathspec's patterns fit whatever lies below, too; with that, `!/certs/` would bring in `certs/x.pem`.
        """
        path, above = path + "/" * is_folder, path.rpartition("/")[0]
        body = self.text.removeprefix("!").strip().rstrip("/")
        if "/" not in body.removeprefix("**/"):  # a name, wherever it stands
            return self.fits(path.removeprefix(f"{above}/"))
        if "**" not in body:
            return above.count("/") + bool(above) == body.removeprefix("/").count("/") and self.fits(path)
        if body.endswith("/**"):  # whatever lies below, but not that folder itself
            return self.fits(path.rstrip("/"))
        return self.fits(path) and not self.fits(f"{above}/")

    def fits(self, path: str) -> bool:
        """Return whether the pattern fits the path, or a folder that it lies in."""
        return self.spec.match_file(path)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """All rules of a folder, in order."""

    rules: tuple[Rule, ...]

    def verdict(self, path: str, *, is_folder: bool) -> Group | None:
        """Return the group of the rule that leaves a path out; None where it is in.

        Args:
            path: It, relative to the folder, with slashes. The folders that it lies in are in.
            is_folder: Whether it is a folder.
        """
        for rule in reversed(self.rules):
            if rule.decides(path, is_folder=is_folder):
                return None if rule.text.startswith("!") else rule.group
        return None


def read_rules(folder: Path, *, also: Iterable[str] = ()) -> IgnoreRules:
    """Return the rules of a folder.

    Args:
        folder: Where `.benchkitignore` lies, or, where there is none, `.hafniaignore`; it need have neither.
        also: Paths in it that can be no code either, relative to it and with slashes.

    Raises:
        ProjectError: `.benchkitignore` cannot be read, or has a line that is no pattern.
    """
    rules = [_rule(text, "no code") for text in NO_CODE]
    rules += [_rule(text, "secret") for text in SECRETS]
    path = folder / IGNORE_FILE
    if not path.exists():
        path = folder / OLDER_IGNORE_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path} cannot be read: {error}") from error
    rules += [_own_rule(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    never = (*NEVER_CODE, *(f"/{_escape(name)}" for name in also))
    rules += [_rule(text, "no code") for text in never]
    return IgnoreRules(tuple(rule for rule in rules if rule.is_pattern))


def _own_rule(line: str, where: str) -> Rule:
    try:
        return _rule(line, "own")
    except ValueError as error:
        raise ProjectError(f"{where}: {line!r:.80} is no pattern of .gitignore") from error


def _rule(text: str, group: Group) -> Rule:
    # A negated pattern is compiled without its mark: what it fits is asked, not what follows from it.
    bare = text.removeprefix("!")
    if text != bare and bare.startswith(("!", "#")):
        bare = f"\\{bare}"
    return Rule(text, group, GitIgnoreSpec.from_lines([bare]))


def _escape(path: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\*?[]! #" else letter for letter in path)
