"""Who may look, from where, and how they prove it."""
