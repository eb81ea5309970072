"""Media files: claimed as jobs, fetched from WhatsApp's servers, verified, typed by content, stored by hash.

Start at `jobs.MediaRunner`. Messages never wait for their files.
"""
