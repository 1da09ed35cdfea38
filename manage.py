#!/usr/bin/env python
"""The command line of Steersman: ``./manage.py help`` lists what it can do."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    from django.core.management import execute_from_command_line
    from django.db.utils import OperationalError

    try:
        execute_from_command_line(sys.argv)
    except OperationalError as error:
        if "connection" not in str(error):
            raise
        sys.exit(f"The database does not answer: {error}\nStart it with ./manage.py up, or set DATABASE_URL.")


if __name__ == "__main__":
    main()
