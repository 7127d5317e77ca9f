"""A job: a package run by an engine, with the folders and variables that the documents promise it.

It reads the project's remote, and finds its folders through `settings.read_job_folders`. On this machine they
lie in the job's own folder, `.benchkit/jobs/<id>/`, and in a container at their usual places below `/opt/ml`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchkit.data.catalogue import find_version, parse_label
from benchkit.errors import NotFoundError, StoreError
from benchkit.project.engines import (
    Container,
    ContainerEngine,
    Engine,
    Mount,
    image_name,
    kill_command,
    process_command,
    run_command,
)
from benchkit.project.foreground import run_in_foreground
from benchkit.project.images import read_environment
from benchkit.project.package import OpenPackage, open_package
from benchkit.project.unpacking import unpack
from benchkit.settings import (
    JOB_ROOT,
    RUN_FOLDER_VARIABLE,
    SETTINGS_NAME,
    JobFolders,
    Settings,
    child_environment,
    config_dir,
    hides_gpus,
    set_variables,
)
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_remote
from benchkit.train.run_record import RunDataset, new_run_id

JOBS_FOLDER = Path(".benchkit") / "jobs"
CACHE_TARGET = "/opt/benchkit/cache"
CONFIG_TARGET = "/opt/benchkit/config"
RUN_TARGET = str(JOB_ROOT / "run")
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "BENCHKIT_PROFILE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What is run, and how.

    Attributes:
        package: The package's zip.
        command: The program and its arguments.
        engine: What runs it.
        image: For a container, of which image it is; None is the one that was built of the package.
        dataset: The dataset that the job is told of, as NAME@N; None is none.
        folders: Folders of this machine for some of those that it has; the others are in the job's own.
        run_folder: The folder of the run on record that it is; None where it is none.
        job: Its id; None is a new one.
        defaults: Variables that its environment has where nothing else says them.
    """

    package: Path
    command: Sequence[str]
    engine: Engine
    image: str | None = None
    dataset: str | None = None
    folders: dict[str, Path] = field(default_factory=dict)
    run_folder: Path | None = None
    job: str | None = None
    defaults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What came of a job.

    Attributes:
        folder: Its folder.
        folders: What it has left.
        exit_code: That of its command; 128 and the signal where one ended it.
        interrupted: Whether Ctrl-C ended it.
    """

    folder: Path
    folders: JobFolders
    exit_code: int
    interrupted: bool


def check_dataset(label: str, settings: Settings) -> tuple[str, RunDataset]:
    """Return a dataset as NAME@N, the newest where no number is given, and as a run's record has it.

    Raises:
        NotFoundError: The project's remote has no such dataset or version.
    """
    name, number = parse_label(label)
    version = find_version(open_remote(settings), name, number=number)
    return version.label, RunDataset(name=name, version=version.number, manifest=version.digest)


def run_job(options: JobOptions, *, here: Path, settings: Settings | None) -> JobReport:
    """Run a package to its end.

    Args:
        options: What is run, and how.
        here: The folder below which the job's own is made.
        settings: Those of the project whose remote it reads; None where there is none.

    Raises:
        NotFoundError: There is no such package, image, or program.
        StoreError: The disk is full.
    """
    folder = here / JOBS_FOLDER / (options.job or new_run_id())
    with open_package(options.package) as opened:
        try:
            folders = replace(JobFolders.below(folder / "ml"), **options.folders)
            for name in ("dataset", "model", "checkpoints", "artifacts"):
                getattr(folders, name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error}") from error
        if options.engine == "process":
            code, interrupted = _run_process(options, opened, folder, folders, settings)
        else:
            code, interrupted = _run_container(options, options.engine, opened, folder, folders, settings)
    return JobReport(folder=folder, folders=folders, exit_code=code, interrupted=interrupted)


def _run_process(
    options: JobOptions, opened: OpenPackage, folder: Path, folders: JobFolders, settings: Settings | None
) -> tuple[int, bool]:
    package = folder / "package"
    unpack(opened.archive, opened.archive.files, package)
    remote = open_remote(settings) if settings else None
    if isinstance(remote, LocalStore):
        folders = replace(folders, dataset=remote.root)
    variables = folders.variables()
    variables["BENCHKIT_PROJECT"] = str(package) if (package / SETTINGS_NAME).is_file() else ""
    if settings:
        variables["BENCHKIT_REMOTE"] = settings.remote_url
        variables["BENCHKIT_CACHE_DIR"] = str(settings.cache_dir)
    if options.dataset:
        variables["BENCHKIT_DATASET"] = options.dataset
    variables[RUN_FOLDER_VARIABLE] = str(options.run_folder or "")
    environment = child_environment(variables, defaults=options.defaults)
    modules = [str(package / "src"), str(package), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, modules))
    return run_in_foreground(process_command(options.command), environment=environment, folder=package)


def _run_container(
    options: JobOptions,
    engine: ContainerEngine,
    opened: OpenPackage,
    folder: Path,
    folders: JobFolders,
    settings: Settings | None,
) -> tuple[int, bool]:
    image = options.image or image_name(opened.digest)
    says = read_environment(engine, image)
    if says is None:
        raise NotFoundError(
            f"{engine} has no image {image} of {options.package}: build it with: "
            f"bench-kit runc build-local {options.package} --engine {engine}"
        )
    container = plan_container(
        options, image, folder.name, folders, settings, finds_modules="PYTHONPATH" in says
    )
    for mount in container.mounts:
        mount.source.mkdir(parents=True, exist_ok=True)
    return run_in_foreground(
        run_command(engine, container),
        environment=child_environment({}, defaults={}),
        kill=kill_command(engine, container.name),
    )


def plan_container(
    options: JobOptions,
    image: str,
    job: str,
    folders: JobFolders,
    settings: Settings | None,
    *,
    finds_modules: bool,
) -> Container:
    """Return the container of a job.

    Args:
        options: What is run.
        image: Of which image.
        job: The job's id.
        folders: Its folders on this machine.
        settings: Those of the project whose remote it reads.
        finds_modules: Whether the image says itself where Python finds modules.
    """
    inside = JobFolders.below(JOB_ROOT)
    variables = options.defaults | inside.variables()
    if not finds_modules:
        variables["PYTHONPATH"] = "src:."  # of its working folder, where the package is
    if options.dataset:
        variables["BENCHKIT_DATASET"] = options.dataset
    mounts = [
        Mount(source=getattr(folders, name), target=str(getattr(inside, name)))
        for name in ("model", "checkpoints", "artifacts")
    ]
    if options.run_folder:
        variables[RUN_FOLDER_VARIABLE] = RUN_TARGET
        mounts.append(Mount(source=options.run_folder, target=RUN_TARGET))
    inherited: list[str] = []
    dataset = folders.dataset
    if settings:
        remote = open_remote(settings)
        if isinstance(remote, LocalStore):
            dataset = remote.root
            variables["BENCHKIT_REMOTE"] = str(inside.dataset)
        else:
            variables["BENCHKIT_REMOTE"] = settings.remote_url
            inherited = set_variables(CREDENTIALS)
            if config_dir().is_dir():
                variables["XDG_CONFIG_HOME"] = CONFIG_TARGET
                mounts.append(Mount(source=config_dir(), target=f"{CONFIG_TARGET}/benchkit", read_only=True))
        variables["BENCHKIT_CACHE_DIR"] = CACHE_TARGET
        mounts.append(Mount(source=settings.cache_dir, target=CACHE_TARGET))
    mounts.append(Mount(source=dataset, target=str(inside.dataset)))
    return Container(
        name=f"benchkit-{job}",
        image=image,
        command=options.command,
        variables=variables,
        inherited=inherited,
        mounts=mounts,
        gpus=has_gpus(),
    )


def has_gpus() -> bool:
    """Return whether this machine has GPUs of NVIDIA's that may be used."""
    return not hides_gpus() and any(Path("/dev").glob("nvidia[0-9]*"))
