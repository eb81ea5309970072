"""Pure rules of what a page shows: no I/O, no clock."""
