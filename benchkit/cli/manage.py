"""The program `python manage.py`: what is done with one project, the one that `manage.py` lies in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from benchkit.cli.app import make_app, run
from benchkit.cli.commands import migrate_code, migrate_data, train

app = make_app("Pack, test and upload this project's datasets and code, and train.")
app.command("migrate-data", epilog=migrate_data.EXAMPLE)(migrate_data.migrate_data)
app.command("migrate-code", epilog=migrate_code.EXAMPLE)(migrate_code.migrate_code)
app.command("train", epilog=train.EXAMPLE, context_settings={"ignore_unknown_options": True})(train.train)


def main(folder: Path) -> NoReturn:
    """Run the command that the command line names, on the project in the folder of `manage.py`."""
    run(app, sys.argv[1:], program="manage.py", folder=folder)
