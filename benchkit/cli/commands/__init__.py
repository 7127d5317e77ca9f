"""The commands: one module each, which calls one function and prints its answer."""
