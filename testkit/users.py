"""Users of Supabase Auth on a plain PostgreSQL: what supabase/optional/users.sql needs there, and a user's requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from testkit.processes import ROOT

STAND_IN = Path(__file__).with_suffix(".sql")
USERS = ROOT / "supabase" / "optional" / "users.sql"
REMOVE_USERS = ROOT / "supabase" / "optional" / "remove_users.sql"


@contextmanager
def acting_as(connection: psycopg.Connection[Any], user: str | None, role: str = "authenticated") -> Iterator[None]:
    """A request of the Data API: the role and the claims hold for one transaction, which is rolled back."""
    with connection.transaction(force_rollback=True):
        claims = json.dumps({"sub": user, "role": role} if user else {"role": role})
        connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        connection.execute(f"set local role {role}")
        yield
        connection.execute("reset role")
