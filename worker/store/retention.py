"""Removes files that no message refers to any more: their rows first, then the objects (supabase/schemas/media.sql)."""

from __future__ import annotations

from collections.abc import Callable

from worker.store.store import Store

OBJECTS_AT_ONCE = 100  # one request to the bucket


async def delete_unused_objects(store: Store, progress: Callable[[int], None] = lambda count: None) -> int:
    """How many objects were deleted. May be interrupted and called again.

    Raises:
        StoreError: as the calls do; what is listed stays listed.
    """
    count = 0
    while objects := await store.console.list_media_to_delete(OBJECTS_AT_ONCE):
        await store.bucket.remove(list(objects.values()))
        await store.console.mark_media_deleted(list(objects))
        count += len(objects)
        progress(count)
    return count
