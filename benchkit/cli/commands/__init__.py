"""The commands: one module each, which parses, calls one function and prints what `render` makes of the answer."""
