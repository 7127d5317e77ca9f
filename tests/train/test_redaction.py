"""Secrets are hidden by the name they go by, by their shape, and where the environment has them."""

from __future__ import annotations

import pytest

from benchkit.train.redaction import is_secret_name, redact_arguments, redact_text, redact_tree

SECRETS = [
    "api_key", "API-KEY", "apiKey", "openai_api_key", "aws_secret_access_key", "AWS_ACCESS_KEY_ID",
    "password", "db.password", "passwd", "HF_TOKEN", "token", "githubToken", "session_token", "credentials",
    "client_secret", "privateKey", "--wandb-api-key", "Authorization", "pwd", "--pwd", "DB_PWD",
]  # fmt: skip
HARMLESS = [
    "max_tokens", "pad_token", "eos_token", "tokenizer", "token_dropout", "key", "keys", "primary_key",
    "seed", "secretary", "learning_rate", "keyword", "passes", "author", "num_heads", "PWD", "OLDPWD",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", HARMLESS)
def test_names_of_other_things(name):
    assert not is_secret_name(name)


def test_arguments_lose_the_values_of_secret_options():
    arguments = [
        "t.py",
        "--api-key",
        "k1",
        "--token=k2",
        "-x",
        "password=k3",
        "--lr",
        "0.1",
        "s3://u:k4@h/b",
        "k5k5k5k5",
    ]
    redacted = redact_arguments(arguments, {"k5k5k5k5"})
    assert redacted == [
        "t.py",
        "--api-key",
        "***",
        "--token=***",
        "-x",
        "password=***",
        "--lr",
        "0.1",
        "s3://***@h/b",
        "***",
    ]


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "ghp_abcdefghijklmnop1234567890",
        "sk-proj-abcdefghijklmnop12345",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
    ],
)
def test_texts_with_the_shape_of_a_secret_lose_it(secret):
    assert redact_text(f"see {secret}, and more") == "see ***, and more"


def test_short_values_of_the_environment_hide_nothing():
    assert redact_text("a path with yes in it", {"yes"}) == "a path with yes in it"


def test_a_tree_keeps_all_but_its_secrets():
    tree = {
        "lr": 0.1,
        "hub": {"token": "abc", "id": "me/it"},
        "max_tokens": 5,
        "keys": ["AKIAIOSFODNN7EXAMPLE", 1],
    }
    assert redact_tree(tree) == {
        "lr": 0.1,
        "hub": {"token": "***", "id": "me/it"},
        "max_tokens": 5,
        "keys": ["***", 1],
    }
