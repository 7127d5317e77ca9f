"""The command line: parse, call one function, render; the only place that prints."""
