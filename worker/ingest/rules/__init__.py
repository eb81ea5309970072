"""What of a batch is stored and as what: pure functions, without I/O or clock.

Start at `batch.ingest`. `normalise` makes a row of one stanza, `classify` finds its kind, `content` is the table of
WAProto's content types.
"""
