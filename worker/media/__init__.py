"""Files: claimed as jobs, fetched from WhatsApp's servers, verified, typed by their bytes, stored under their hash.

Start reading at `jobs.MediaRunner`. Messages never wait for their files.
"""
