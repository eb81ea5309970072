"""Removes files that no message refers to: first their rows, then the objects (supabase/schemas/media.sql)."""

from __future__ import annotations

from collections.abc import Callable

from worker.store.store import Store

OBJECTS_AT_ONCE = 100  # one request to the bucket


async def delete_unused_objects(store: Store, progress: Callable[[int], None] = lambda count: None) -> int:
    """Delete unused objects. Returns how many. Can be interrupted and called again.

    Raises:
        StoreError: from the calls; objects not deleted stay listed.
    """
    count = 0
    while objects := await store.console.list_media_to_delete(OBJECTS_AT_ONCE):
        await store.bucket.remove(list(objects.values()))
        await store.console.mark_media_deleted(list(objects))
        count += len(objects)
        progress(count)
    return count
