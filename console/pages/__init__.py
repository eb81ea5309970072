"""One module for each page, with the actions that it offers."""
