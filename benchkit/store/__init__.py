"""The object store: a small protocol, and the backends behind it."""
