"""The data layer: what a sample is, and how samples become published versions."""
