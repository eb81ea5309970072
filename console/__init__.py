"""The web console, one app among others on the same database. Described in docs/console.md.

Reads what any app may read, and writes only what the contract lets a web app write: `groups.monitor` and
`runtime_flags`. Makes no decisions about WhatsApp. Runs in its own process.
"""
