"""What is reported of an attempt: on disk first, then at the server."""
