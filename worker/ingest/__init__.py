"""From what the sidecar journaled to what the database stores: pure rules, no I/O, no clock.

`commit.ingest` is the way in; `normalise` makes a row of one stanza, `classify` its kind, `content` is the table.
"""
