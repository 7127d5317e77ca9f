"""The project: making one, migrating it, launching its script."""
