"""`bench-kit profile`: the credentials that are saved on this machine: `ls`, `use`, `create` and `rm`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from benchkit.cli import render
from benchkit.cli.asking import confirm
from benchkit.cli.commands.configure import (
    AccessKeyId,
    EndpointUrl,
    Region,
    SecretStdin,
    read_profile,
    show_saved,
)
from benchkit.errors import UsageError

SUMMARY = "List, choose, make and remove the credentials that are saved on this machine."
EXAMPLE = "Example: bench-kit profile ls"

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=SUMMARY, epilog=EXAMPLE)
Name = Annotated[str, typer.Argument(help="The profile's name.")]


@app.command("ls", epilog="Example: bench-kit profile ls --json")
def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, for programs.")] = False,
) -> None:
    """List the profiles; a star marks the one in use, and keys are masked."""
    from benchkit import profiles

    found, in_use = profiles.list_profiles(), profiles.find_profile(None)
    if as_json:
        listed = [
            {
                "name": profile.name,
                "in_use": profile == in_use,
                "access_key_id": profiles.mask(profile.access_key_id),
                "session_token": profile.session_token is not None,
                "endpoint_url": profile.endpoint_url,
                "region": profile.region,
            }
            for profile in found
        ]
        print(json.dumps(listed, indent=2))
    elif found:
        rows = [
            (
                "*" if profile == in_use else "",
                profile.name,
                profiles.mask(profile.access_key_id),
                profile.endpoint_url or "AWS",
                profile.region or "-",
            )
            for profile in found
        ]
        print(render.table(("", "profile", "access key id", "endpoint", "region"), rows))
    else:
        print("there is no profile; make one with: bench-kit configure")


@app.command("use", epilog="Example: bench-kit profile use work")
def use(name: Name) -> None:
    """Make a profile the one in use."""
    from benchkit.profiles import use_profile

    use_profile(name)
    print(f"the profile {name} is in use")


@app.command(
    "create",
    epilog="Example: bench-kit profile create work --access-key-id AKIA123 --secret-stdin < secret.txt",
)
def create(
    name: Name,
    access_key_id: AccessKeyId = None,
    secret_stdin: SecretStdin = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Make a new profile; the first one is in use at once."""
    from benchkit import profiles

    if profiles.find_profile(name):
        raise UsageError(
            f"there is a profile {name} already: change it with bench-kit configure --profile {name}, "
            f"or remove it with bench-kit profile rm {name}"
        )
    made = read_profile(
        name,
        access_key_id=access_key_id,
        secret_stdin=secret_stdin,
        endpoint_url=endpoint_url,
        region=region,
    )
    first = not profiles.list_profiles()
    profiles.save_profile(made, use=first)
    show_saved(made, in_use=first)


@app.command("rm", epilog="Example: bench-kit profile rm work --yes")
def remove(name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Remove a profile and its keys from this machine."""
    remove_asking(name, command=f"profile rm {name}", yes=yes)


def remove_asking(name: str, *, command: str, yes: bool) -> None:
    """Remove a profile, asking first unless told not to, and say what was removed."""
    from benchkit import profiles

    profile = profiles.get_profile(name)
    confirm(
        f"Remove the profile {name} and its keys from this machine?",
        yes=yes,
        asks=f"{command} asks before it removes keys",
    )
    used = profile == profiles.find_profile(None)
    profiles.remove_profile(name)
    print(f"removed the profile {name} and its keys (access key id {profiles.mask(profile.access_key_id)})")
    if used:
        print("no profile is in use now; to choose one: bench-kit profile use NAME")
