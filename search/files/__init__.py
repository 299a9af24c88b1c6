"""Files of problems, and of results that grow line by line."""
