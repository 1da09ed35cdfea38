"""``python -m webapp.local.passwords SECRETS BROKER``: passwords for docker-compose.yml, drawn on the first start.

They lie in volumes, one file each, which only its owner may read: ``SECRETS`` is for the studio and the database,
``BROKER`` for the broker alone. What is there already is kept. Nothing here imports Django.
"""

import sys
from pathlib import Path

from webapp.local.endpoints import secret_in, write_private

USER = DATABASE = "steersman"  # as docker-compose.yml names them, with the hosts "db" and "broker"
LENGTH = 40


def write_passwords(secrets: Path, broker: Path) -> None:
    """Draw what is missing and write the addresses that hold it."""
    secret_in(secrets / "secret_key")
    for_database = secret_in(secrets / "database_password", length=LENGTH)
    for_broker = secret_in(secrets / "broker_password", length=LENGTH)
    write_private(secrets / "database_url", f"postgresql://{USER}:{for_database}@db:5432/{DATABASE}\n")
    write_private(secrets / "broker_url", f"redis://:{for_broker}@broker:6379/0\n")
    write_private(broker / "password.conf", f"requirepass {for_broker}\n")


if __name__ == "__main__":
    write_passwords(Path(sys.argv[1]), Path(sys.argv[2]))
