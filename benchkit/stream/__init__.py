"""The stream layer: the order, the cache, and the loader that feeds training."""
