"""Runs the commands of a project: `python manage.py --help` lists them."""

from pathlib import Path

from benchkit.cli.manage import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
