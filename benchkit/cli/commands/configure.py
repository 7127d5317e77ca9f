"""`bench-kit configure`: the user's own credentials, asked for, or read where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.cli.asking import at_terminal
from benchkit.errors import UsageError

if TYPE_CHECKING:
    from benchkit.profiles import Profile

EXAMPLE = "Example: bench-kit configure --profile work --endpoint-url https://s3.example.com"
DEFAULT_NAME = "default"

AccessKeyId = Annotated[str | None, typer.Option(help="The access key's id.", show_default="asks")]
SecretStdin = Annotated[
    bool,
    typer.Option(
        "--secret-stdin",
        help="Read the secret key from stdin: one line, and a session token from a second one.",
    ),
]
EndpointUrl = Annotated[
    str | None, typer.Option(help="The service; an empty text is AWS.", show_default="asks")
]
Region = Annotated[str | None, typer.Option(help="Its region; an empty text is none.", show_default="asks")]


def configure(
    profile: Annotated[str | None, typer.Option(help="The profile's name.", show_default="asks")] = None,
    access_key_id: AccessKeyId = None,
    secret_stdin: SecretStdin = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Save credentials for an object store on this machine, and use them."""
    from benchkit import profiles

    name = profile
    if name is None and at_terminal():
        name = _ask("Profile name", profiles.check_profile_name, default=DEFAULT_NAME)
    made = read_profile(
        name or DEFAULT_NAME,
        access_key_id=access_key_id,
        secret_stdin=secret_stdin,
        endpoint_url=endpoint_url,
        region=region,
    )
    profiles.save_profile(made, use=True)
    show_saved(made, in_use=True)


def read_profile(
    name: str, *, access_key_id: str | None, secret_stdin: bool, endpoint_url: str | None, region: str | None
) -> Profile:
    """Return the profile of the name with what is given; the rest is asked for, or as it is saved."""
    from benchkit import profiles, settings

    profiles.check_profile_name(name)
    old = profiles.find_profile(name)
    if secret_stdin and at_terminal():
        raise UsageError("--secret-stdin reads a file or a pipe: leave it out, and you are asked")
    asks = at_terminal()
    if access_key_id is None:
        access_key_id = old.access_key_id if old else None
        if asks:
            title = f"Access key id [{profiles.mask(old.access_key_id)}]" if old else "Access key id"
            access_key_id = _ask(title, _checked_key("an access key id"), default=access_key_id, shown=False)
        if access_key_id is None:
            raise UsageError(f"the profile {name} needs --access-key-id where there is no terminal to ask")
    # A saved secret belongs to the key that it was saved with.
    same = old if old and old.access_key_id == access_key_id else None
    secret, token = (same.secret_access_key, same.session_token) if same else (None, None)
    if secret_stdin:
        secret, token = _read_secret()
    elif asks:
        title = "Secret access key [as saved]" if secret else "Secret access key"
        typed = _ask(title, _checked_key("a secret access key"), default=secret, shown=False, hidden=True)
        secret, token = typed, token if typed == secret else None
    if secret is None:
        raise UsageError(f"the profile {name} needs --secret-stdin where there is no terminal to ask")
    if endpoint_url is None:
        endpoint_url = (old.endpoint_url if old else None) or ""
        if asks:
            title = "Endpoint URL" if endpoint_url else "Endpoint URL, empty for AWS"
            endpoint_url = _ask(title, _or_empty(settings.check_endpoint), default=endpoint_url)
    if region is None:
        region = (old.region if old else None) or ""
        if asks:
            title = "Region" if region else "Region, may be empty"
            region = _ask(title, _or_empty(settings.check_region), default=region)
    return profiles.Profile(
        name=name,
        access_key_id=access_key_id,
        secret_access_key=secret,
        session_token=token,
        endpoint_url=endpoint_url or None,
        region=region or None,
    )


def show_saved(profile: Profile, *, in_use: bool) -> None:
    """Say where a profile was saved, and what it is, without its keys."""
    from benchkit.profiles import mask, profiles_path
    from benchkit.settings import environment_has_credentials

    print(f"saved the profile {profile.name} in {render.escape(str(profiles_path()))}")
    rows = [
        ("  access key id", mask(profile.access_key_id)),
        ("  endpoint", profile.endpoint_url or "AWS"),
        ("  region", profile.region or "-"),
    ]
    print(render.pairs(rows))
    if not in_use:
        print(f"to use it: bench-kit profile use {profile.name}")
    elif environment_has_credentials():
        print("it is in use, but the AWS credentials in this shell's environment come before it")
    else:
        print("it is in use; to try it, in a project with an s3:// remote: bench-kit doctor")


def _read_secret() -> tuple[str, str | None]:
    """Return secret and session token from the lines of stdin."""
    secret, _, rest = sys.stdin.read().partition("\n")
    return secret.strip(), rest.strip() or None


def _checked_key(what: str) -> Callable[[str], str]:
    from benchkit.profiles import check_key

    return lambda text: check_key(what, text.strip())


def _or_empty(check: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: check(text.strip()) if text.strip() else ""


def _ask(
    title: str,
    check: Callable[[str], str],
    *,
    default: str | None = None,
    shown: bool = True,
    hidden: bool = False,
) -> str:
    """Return what is typed, asked for again until the check takes it; nothing typed is the default."""

    def take(text: str) -> str:
        try:
            return check(text)
        except UsageError as error:
            raise typer.BadParameter(str(error)) from error

    show_default = shown and bool(default)
    answer: str = typer.prompt(
        title, default=default, show_default=show_default, hide_input=hidden, value_proc=take, err=True
    )
    return answer
