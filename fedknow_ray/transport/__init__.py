"""What crosses the link between a client and the server, encoded and counted."""
