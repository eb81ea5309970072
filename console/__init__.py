"""The web console: one app among others over the same database. docs/console.md describes it.

Reads tables and functions that any app may read, and writes what the contract lets a web app write: `groups.monitor`
and `runtime_flags`. It makes no decision about WhatsApp, and runs in a process of its own.
"""
