"""What tests, the demo, chaos and bench share: processes, the virtual phone, the web app's view of the database."""
