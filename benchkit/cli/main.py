"""The program `bench-kit`: makes projects, and shows what they hold."""

from __future__ import annotations

import sys
from typing import NoReturn

from benchkit.cli.app import make_app, run
from benchkit.cli.commands import (
    clean,
    configure,
    del_check,
    del_ds,
    del_vs,
    diff_vs,
    doctor,
    experiment,
    get_check,
    logout,
    profile,
    project_info,
    pull_vs,
    runc,
    show_check,
    show_ds,
    show_samples,
    show_vs,
    simulate,
    startproject,
    trainer,
    verify,
)

app = make_app(
    "Pack datasets, ship them through an object store, and stream them into training. "
    "What is done with one project, such as to train, is: python manage.py --help"
)
# The older form's second positional is for the command to answer.
_OLDER_FORM = {"allow_extra_args": True}
app.command("startproject", epilog=startproject.EXAMPLE, context_settings=_OLDER_FORM)(
    startproject.startproject
)
app.command("start-project", hidden=True, epilog=startproject.EXAMPLE, context_settings=_OLDER_FORM)(
    startproject.startproject
)
app.command("project-info", epilog=project_info.EXAMPLE)(project_info.project_info)
app.command("show-ds", epilog=show_ds.EXAMPLE)(show_ds.show_ds)
app.command("del-ds", epilog=del_ds.EXAMPLE)(del_ds.del_ds)
app.command("show-vs", epilog=show_vs.EXAMPLE)(show_vs.show_vs)
app.command("pull-vs", epilog=pull_vs.EXAMPLE)(pull_vs.pull_vs)
app.command("del-vs", epilog=del_vs.EXAMPLE)(del_vs.del_vs)
app.command("diff-vs", epilog=diff_vs.EXAMPLE)(diff_vs.diff_vs)
app.command("show-check", epilog=show_check.EXAMPLE)(show_check.show_check)
app.command("get-check", epilog=get_check.EXAMPLE)(get_check.get_check)
app.command("del-check", epilog=del_check.EXAMPLE)(del_check.del_check)
app.command("clean", epilog=clean.EXAMPLE)(clean.clean)
app.command("verify", epilog=verify.EXAMPLE)(verify.verify)
app.command("simulate", epilog=simulate.EXAMPLE)(simulate.simulate)
app.command("show-samples", epilog=show_samples.EXAMPLE)(show_samples.show_samples)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)
app.command("configure", epilog=configure.EXAMPLE)(configure.configure)
app.add_typer(experiment.app, name="experiment")
app.add_typer(trainer.app, name="trainer")
app.add_typer(trainer.recipe_app, name="recipe")
app.add_typer(runc.app, name="runc")
app.add_typer(profile.app, name="profile")
app.command("logout", epilog=logout.EXAMPLE)(logout.logout)


def main() -> NoReturn:
    """Run the command that the command line names."""
    run(app, sys.argv[1:], program="bench-kit")


if __name__ == "__main__":
    main()
