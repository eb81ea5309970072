"""One module per page, with its actions."""
