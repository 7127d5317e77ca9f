"""The formats, specified to the byte in `docs/format.md`: pure functions over bytes and values, no files."""
