"""Fixtures of the ledger's tests: one place for a ledger in each database."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from millcert.testing.private_postgres import PrivatePostgres


@dataclass(frozen=True)
class LedgerPlace:
    """Where a test's ledger is: what the client keeps is beside `path`; `url` None means that the database is, too."""

    database: str
    path: Path
    url: str | None

    def arguments(self) -> list[str]:
        """Return the two words that a program of a test is given."""
        return [str(self.path), self.url or ""]


@pytest.fixture
def postgres_schema(postgres: PrivatePostgres) -> Iterator[Callable[[], str]]:
    """Return a function that names a new schema; all of them are dropped afterwards."""
    names: list[str] = []

    def new() -> str:
        names.append(f"t{uuid4().hex[:12]}")
        return names[-1]

    yield new
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for name in names:
            connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerPlace:
    """Return where a new ledger can be made, in each database."""
    url = None
    if request.param == "postgresql":
        server: Any = request.getfixturevalue("postgres")
        url = server.url_of(schema=request.getfixturevalue("postgres_schema")())
    return LedgerPlace(request.param, tmp_path / "state" / "ledger.db", url)
