"""`wa-worker demo`: the main job, shown. Real parts, our own virtual phone, no account."""
