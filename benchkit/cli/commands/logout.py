"""`bench-kit logout`: the profile in use and its keys, removed from this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from benchkit.cli.commands.profile import remove_asking

EXAMPLE = "Example: bench-kit logout --yes"


def logout(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Remove the profile in use and its keys from this machine."""
    from benchkit.profiles import find_profile
    from benchkit.settings import environment_has_credentials

    profile = find_profile(None)
    if profile:
        remove_asking(profile.name, command="logout", yes=yes)
    else:
        print("no profile is in use: there is nothing to remove")
    if environment_has_credentials():
        print("the AWS credentials in this shell's environment are still there")
