"""A PostgreSQL server of one's own, for tests and benches: on a unix socket in a temporary folder, gone afterwards.

Works in a checkout, through scripts/postgres.sh; an installed millcert does not have the script.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from millcert.errors import StoreError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "postgres.sh"

#: Set to 1 where a missing server must fail instead of skipping what needs it.
REQUIRE_VARIABLE = "MILLCERT_REQUIRE_POSTGRES"


@dataclass(frozen=True)
class PrivatePostgres:
    """A server that this process started; `remove` it after use.

    url: of its database `postgres`, as its superuser.
    """

    url: str

    @classmethod
    def start(cls) -> "PrivatePostgres":
        """Make and start a server.

        Raises:
            StoreError: there is no PostgreSQL on this machine, or it does not start.
        """
        return cls(_script("start").strip())

    @property
    def folder(self) -> Path:
        """Where its data, its log and its socket are."""
        return Path(parse_qs(urlsplit(self.url).query)["host"][0])

    def start_again(self) -> None:
        """Start it after `stop` or after a crash, with the data that it kept.

        Raises:
            StoreError: it does not start.
        """
        _script("start", str(self.folder))

    def stop(self, *, crash: bool = False) -> None:
        """Stop it; `crash` ends all its processes at once, and the next start recovers from its log."""
        _script("stop", str(self.folder), "immediate" if crash else "fast")

    def remove(self) -> None:
        """Stop it and delete all that it kept."""
        _script("remove", str(self.folder))

    def url_of(self, *, user: str = "ledger_owner", database: str = "postgres", schema: str, host: str = "") -> str:
        """Return the URL of a ledger in this server; `host` stands for another folder with a socket."""
        return f"postgresql://{user}@/{database}?host={host or self.folder}&schema={schema}"


def is_required() -> bool:
    """Say whether a missing server is a failure here, as it is in CI."""
    return os.environ.get(REQUIRE_VARIABLE) == "1"


def _script(*arguments: str) -> str:
    bash = shutil.which("bash")
    if bash is None or not SCRIPT.exists():
        raise StoreError(f"{SCRIPT} cannot be run here.", hint="Run this in a checkout of millcert, with bash.")
    # A server that stays must not hold the pipe of our standard error: its output goes to its log.
    done = subprocess.run([bash, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise StoreError(
            f"scripts/postgres.sh {arguments[0]} failed: {' '.join(done.stderr.split())[-300:]}",
            hint="scripts/postgres.sh install",
        )
    return done.stdout
