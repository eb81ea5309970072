"""Files: claimed as jobs, fetched from WhatsApp's servers, proven, typed by their bytes, stored under their hash.

`jobs.MediaRunner` is the way in; text never waits for it.
"""
