"""Access control: who may use the console, from where, and how they prove it."""
