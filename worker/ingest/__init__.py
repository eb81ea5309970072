"""Stores what the sidecar has decrypted.

`committer` writes batches; `rules` decides, without I/O or clock, what of a batch is stored and as what.
"""
