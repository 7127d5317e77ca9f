"""Redaction: what looks like a secret is replaced before a run's record is written; pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

HIDDEN = "***"
_LEAST_CHARACTERS = 8
"""A shorter value of the environment, such as `yes`, would take harmless words with it."""

_CURRENT_FOLDER = "PWD"
"""Every shell has this variable, and it holds no password."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS = frozenset(
    {"secret", "secrets", "password", "passwd", "passphrase", "pwd"}
    | {"credential", "credentials", "apikey", "bearer", "authorization"}
)
_SECRET_KEYS = frozenset({"api", "access", "secret", "private", "auth", "account", "encryption", "signing"})
# A model's vocabulary has tokens that are no secrets: pad_token, eos_token.
_HARMLESS_TOKENS = frozenset(
    {"pad", "bos", "eos", "unk", "mask", "sep", "cls", "start", "end", "stop", "begin", "image", "special"}
    | {"next", "first", "last", "per", "no", "new", "additional"}
)
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS access key ids
    r"|\b(?:hf|gh[pousr]|glpat|xox[abprs])[_-][A-Za-z0-9_-]{16,}"  # Hugging Face, GitHub, GitLab, Slack
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|(?<=://)[^/\s@]*:[^/\s@]*(?=@)"  # user and password of a URL
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
)


def is_secret_name(name: str) -> bool:
    """Return whether what has this name is a secret by it: of an option, a key or a variable.

    >>> [is_secret_name(name) for name in ("HF_TOKEN", "--api-key", "apiKey", "db_password")]
    [True, True, True, True]
    >>> [is_secret_name(name) for name in ("max_tokens", "pad_token", "tokenizer", "key", "seed")]
    [False, False, False, False, False]
    """
    if name == _CURRENT_FOLDER:
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    pairs = list(zip(["", *words], words, strict=False))
    return any(
        word in _SECRET_WORDS
        or (word in ("key", "keys") and before in _SECRET_KEYS)
        or (word == "token" and before not in _HARMLESS_TOKENS and after == len(words))
        for after, (before, word) in enumerate(pairs, 1)
    )


def redact_text(text: str, known: Collection[str] = ()) -> str:
    """Return the text without what has the shape of a secret, and without the known ones."""
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _LEAST_CHARACTERS:
            text = text.replace(secret, HIDDEN)
    return _SHAPES.sub(HIDDEN, text)


def redact_arguments(arguments: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """Return a command's arguments without the values of options that are secrets by their names.

    >>> redact_arguments(["train.py", "--api-key", "abc", "--token=abc", "--lr", "1"])
    ['train.py', '--api-key', '***', '--token=***', '--lr', '1']
    """
    redacted: list[str] = []
    hide = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        option = argument.startswith("-") or equals
        if hide and not argument.startswith("--"):
            redacted.append(HIDDEN)
        elif option and equals and is_secret_name(name):
            redacted.append(f"{name}={HIDDEN}")
        else:
            redacted.append(redact_text(argument, known))
        hide = bool(argument.startswith("-") and not equals and is_secret_name(argument))
    return redacted


def redact_tree(value: Any, known: Collection[str] = ()) -> Any:
    """Return a tree of JSON without the texts in it that are secrets by their keys or shapes."""
    if isinstance(value, Mapping):
        return {
            redact_text(key, known): HIDDEN
            if is_secret_name(key) and isinstance(inner, str | list) and inner
            else redact_tree(inner, known)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [redact_tree(inner, known) for inner in value]
    return redact_text(value, known) if isinstance(value, str) else value
