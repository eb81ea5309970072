"""Pure rules for what pages show: no I/O, no clock."""
