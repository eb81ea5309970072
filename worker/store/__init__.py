"""Supabase: the database, the bucket, and the embedded one that is started when none is configured."""

from worker.store.bucket import BUCKET, Bucket
from worker.store.client import Timeouts
from worker.store.rows import (
    AccountState,
    Audit,
    Batch,
    Claim,
    Committed,
    EncryptedEdit,
    Flag,
    GroupChange,
    GroupsUpserted,
    KeyChange,
    Lease,
    MediaFile,
    MediaJob,
    MediaLinked,
    OpenedEdit,
    Piece,
    Pieces,
    Pruned,
    Refused,
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
    "EncryptedEdit",
    "Flag",
    "GroupChange",
    "GroupsUpserted",
    "KeyChange",
    "Lease",
    "MediaFile",
    "MediaJob",
    "MediaLinked",
    "OpenedEdit",
    "Piece",
    "Pieces",
    "Pruned",
    "Refused",
    "Store",
    "Timeouts",
    "connect_store",
]
