"""The train layer: the accelerator and what a run leaves behind."""
