"""Shared by tests, demo, chaos and bench: processes, the virtual phone, the web app's view of the database."""
