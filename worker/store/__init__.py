"""Supabase: the database, the bucket, and the embedded one that is started when none is configured."""

from worker.store.bucket import BUCKET, Bucket
from worker.store.client import Timeouts
from worker.store.rows import (
    AccountState,
    Audit,
    Batch,
    Claim,
    Committed,
    Flag,
    GroupChange,
    GroupsUpserted,
    KeyChange,
    Lease,
    MediaFile,
    MediaJob,
    MediaLinked,
    OpenedEdit,
    Pruned,
    Refused,
    SealedEdit,
)
from worker.store.store import SCHEMA_VERSION, Store, connect_store

__all__ = [
    "BUCKET",
    "SCHEMA_VERSION",
    "AccountState",
    "Audit",
    "Batch",
    "Bucket",
    "Claim",
    "Committed",
    "Flag",
    "GroupChange",
    "GroupsUpserted",
    "KeyChange",
    "Lease",
    "MediaFile",
    "MediaJob",
    "MediaLinked",
    "OpenedEdit",
    "Pruned",
    "Refused",
    "SealedEdit",
    "Store",
    "Timeouts",
    "connect_store",
]
