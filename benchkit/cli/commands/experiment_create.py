"""`bench-kit experiment create`: the code versioned, packed, and launched as a run on record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchkit.cli import render
from benchkit.cli.commands.migrate_code import find_datasets
from benchkit.cli.commands.runc import ENGINES, EngineOption, ImageOption, tell_job
from benchkit.cli.left_out import tell_left_out

if TYPE_CHECKING:
    from benchkit.settings import Settings

EXAMPLE = 'Example: bench-kit experiment create --dataset train --cmd "python TrainScript.py --epochs 3"'


def create(
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="NAME or NAME@VERSION, of the project's remote.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the run.", show_default="the project's id")
    ] = None,
    trainer_path: Annotated[
        Path, typer.Option("--trainer-path", help="The folder with the training script, in a project.")
    ] = Path(),
    command: Annotated[
        str, typer.Option("--cmd", help="What is run; quotes are read as a shell reads them.")
    ] = "python TrainScript.py",
    engine: EngineOption = None,
    processes: Annotated[int, typer.Option(min=1, help="In how many processes a Python script is run.")] = 1,
    image: ImageOption = None,
) -> None:
    """Version the code, pack it, and run it on this machine as a run on record; Ctrl-C ends it cleanly."""
    from benchkit.errors import StoreError
    from benchkit.project.engines import distribute, split_command
    from benchkit.project.images import build_image, choose_engine, is_built
    from benchkit.project.job import JOBS_FOLDER, JobOptions, check_dataset, has_gpus
    from benchkit.project.launched_run import new_record, run_recorded, send_run
    from benchkit.project.package import DEFAULT_PACKAGE, create_package
    from benchkit.settings import find_project, load_settings, use_project
    from benchkit.train.run_record import new_run_id

    settings = load_settings(find_project(trainer_path))
    use_project(settings.project)
    gpus = has_gpus()
    words = distribute(split_command([command]), processes, gpus=gpus)
    chosen = choose_engine(ENGINES[engine] if engine else None)
    label, used = check_dataset(dataset, settings) if dataset else (None, None)
    run = new_run_id()
    code = _version_code(settings)
    package = create_package(trainer_path, settings.project / JOBS_FOLDER / run / DEFAULT_PACKAGE)
    if chosen != "process" and image is None and not is_built(package.path, chosen):
        print(f"the image of this package is built with {chosen}:", flush=True)
        build_image(package.path, chosen, here=settings.project)
    configuration = {"launch": {"command": command, "engine": chosen, "processes": processes}}
    record = new_record(run, settings, name=name, configuration=configuration, code=code, dataset=used)
    options = JobOptions(
        package=package.path,
        command=words,
        engine=chosen,
        image=image,
        dataset=label,
        defaults={} if gpus or processes == 1 else {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    print(f"run {run} ({render.escape(record.name)}): {render.escape(command)}, with {chosen}")
    report = run_recorded(record, options, settings)
    tell_job(report)
    try:
        send_run(run, settings)
    except StoreError as error:
        print(f"warning: the run was not sent: {render.escape(str(error))}", file=sys.stderr)
        print(f"         send it with: bench-kit experiment push {run}", file=sys.stderr)
    print(f"see it with: bench-kit experiment show {run}")
    raise typer.Exit(report.exit_code)


def _version_code(settings: Settings) -> dict[str, Any]:
    """Upload the project's code, unless the newest version has it, and return what a run says of it."""
    from benchkit.project.code_shelf import CodeShelf, describe_making, pack_code

    shelf = CodeShelf.of(settings)
    with pack_code(settings) as packed:
        tell_left_out(packed.sources)
        plan = shelf.plan(packed.files, None, force=False)
        made_with = describe_making(
            settings, shelf.store, None if plan.same else find_datasets(settings.project)
        )
        report = shelf.publish(packed, plan, made_with)
    print(f"code: version {report.version.number}, {'new' if report.new else 'unchanged'}")
    return {
        "version": report.version.number,
        "archive": report.version.archive.digest,
        "revision": made_with.revision,
        "dirty": made_with.dirty,
    }
