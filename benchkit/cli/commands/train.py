"""`python manage.py train`: the project's training script, in as many processes as asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchkit.cli.app import managed_project
from benchkit.errors import UsageError

EXAMPLE = "Example: python manage.py train --processes 2 --epochs 8"


def train(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="What TrainScript.py gets; put -- before a name used here too."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes on this machine.", show_default="one for each GPU, or one on CPUs"),
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Train on the CPU cores even where there are GPUs.")
    ] = False,
    restarts: Annotated[
        int, typer.Option(min=0, metavar="N", help="Start again up to N times when the training crashes.")
    ] = 0,
    nnodes: Annotated[
        int | None, typer.Option(help="How many machines train together.", show_default="this one alone")
    ] = None,
    node_rank: Annotated[int | None, typer.Option(help="Which of them this is, from 0.")] = None,
    master_addr: Annotated[str | None, typer.Option(help="The address of machine 0.")] = None,
    master_port: Annotated[
        int | None, typer.Option(help="A free port of machine 0.", show_default="29500")
    ] = None,
) -> None:
    """Run TrainScript.py in one or several processes.

    Accelerate's launcher starts it on GPUs, torchrun in several processes on CPUs. Options not named here go
    to the script.
    """
    from benchkit.project.launch import find_hardware, launch, launch_again, plan_launch
    from benchkit.project.launchers import DEFAULT_PORT, Machines

    if nnodes is None and (node_rank, master_addr, master_port) != (None, None, None):
        raise UsageError(
            "--node-rank, --master-addr and --master-port are for several machines: add --nnodes"
        )
    plan = plan_launch(
        managed_project(context),
        arguments or [],
        hardware=find_hardware(),
        processes=processes,
        machines=Machines(
            count=1 if nnodes is None else nnodes,
            rank=node_rank or 0,
            address=master_addr,
            port=DEFAULT_PORT if master_port is None else master_port,
        ),
        cpu=cpu,
        folder=Path.cwd(),
    )
    print(f"+ {plan}")
    if not restarts:
        launch(plan)
    raise typer.Exit(launch_again(plan, restarts, on_restart=_tell))


def _tell(code: int, left: int) -> None:
    print(
        f"the training ended with exit code {code}: it is started again, {left} more to go", file=sys.stderr
    )
