"""`wa-worker demo`: the main job, end to end, with real parts and our own virtual phone. No account."""
