"""`bench-kit runc`: packages built into images, and run on this machine."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.errors import UsageError

if TYPE_CHECKING:
    from benchkit.project.engines import Engine
    from benchkit.project.job import JobReport
    from benchkit.settings import Settings

SUMMARY = "Run a package on this machine, in a container or without one."

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=SUMMARY)


class EngineChoice(str, Enum):
    """The engines that can be asked for."""

    docker = "docker"
    podman = "podman"
    process = "process"


ENGINES: dict[EngineChoice, Engine] = {
    EngineChoice.docker: "docker",
    EngineChoice.podman: "podman",
    EngineChoice.process: "process",
}
EngineOption = Annotated[
    EngineChoice | None,
    typer.Option(
        "--engine", help="What runs it; process goes without a container.", show_default="the first there is"
    ),
]
ImageOption = Annotated[
    str | None,
    typer.Option("--image", help="The image's name.", show_default="one that follows from the package"),
]


@app.command("build-local", epilog="Example: bench-kit runc build-local trainer.zip")
def build_local(
    package: Annotated[Path, typer.Argument(help="The package.")] = Path("trainer.zip"),
    engine: EngineOption = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="The image to begin with where the package has no Dockerfile.",
            show_default="python in this version, slim",
        ),
    ] = None,
    image: ImageOption = None,
) -> None:
    """Build the image of a package; one without a Dockerfile gets a generated one."""
    from benchkit.project.images import build_image, choose_engine

    chosen = choose_engine(ENGINES[engine] if engine else None)
    if chosen == "process":
        raise UsageError(
            "--engine process needs no image: go on with bench-kit runc launch-local --engine process"
        )
    settings = find_settings()
    here = settings.project if settings else Path.cwd()
    name = build_image(package, chosen, here=here, base=base, image=image)
    print(f"built {render.escape(name)} of {render.escape(str(package))} with {chosen}")


@app.command(
    "launch-local",
    epilog='Example: bench-kit runc launch-local --dataset train "python scripts/train.py --epochs 3"',
    context_settings={"ignore_unknown_options": True},
)
def launch_local(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="What is run: one quoted text, or words behind --.")
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="NAME or NAME@VERSION, of the project's remote.")
    ] = None,
    package: Annotated[Path, typer.Option("--package", help="The package.")] = Path("trainer.zip"),
    engine: EngineOption = None,
    image: ImageOption = None,
) -> None:
    """Run a package's command, with the folders and variables of a job; its exit code is the command's."""
    from benchkit.project.engines import split_command
    from benchkit.project.images import choose_engine
    from benchkit.project.job import JobOptions, check_dataset, run_job

    words = split_command(command)
    settings = find_settings()
    options = JobOptions(
        package=package,
        command=words,
        engine=choose_engine(ENGINES[engine] if engine else None),
        image=image,
        dataset=check_dataset(dataset, need_settings(settings))[0] if dataset else None,
    )
    here = settings.project if settings else Path.cwd()
    report = run_job(options, here=here, settings=settings)
    tell_job(report)
    raise typer.Exit(report.exit_code)


def find_settings() -> Settings | None:
    """Return the settings of the project here; None where there is none, since a package may do without."""
    from benchkit.errors import ProjectError
    from benchkit.settings import find_project, load_settings

    try:
        project = find_project()
    except ProjectError:
        return None
    return load_settings(project)


def need_settings(settings: Settings | None) -> Settings:
    """Return settings, or the error that says why they are needed."""
    from benchkit.settings import load_settings

    return settings or load_settings()


def tell_job(report: JobReport) -> None:
    """Say how a job ended, and what it has left."""
    folders = report.folders
    left = [
        f"{name} in {render.escape(str(folder))}"
        for name, folder in (
            ("model", folders.model),
            ("checkpoints", folders.checkpoints),
            ("artifacts", folders.artifacts),
        )
        if folder.is_dir() and any(folder.iterdir())
    ]
    how = "was interrupted" if report.interrupted else f"ended with exit code {report.exit_code}"
    print(f"the job {how}; {', '.join(left) or 'it left nothing'}", flush=True)
