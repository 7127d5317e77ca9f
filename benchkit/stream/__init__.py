"""The stream layer: the order, the cache, and the loader that feeds training."""

from benchkit.stream.chunks import ChunkDataset, IterableChunk
from benchkit.stream.images import decode_image
from benchkit.stream.loader import ChunkLoader, get_dataset
from benchkit.stream.options import LoaderOptions, Shard

__all__ = [
    "ChunkDataset",
    "ChunkLoader",
    "IterableChunk",
    "LoaderOptions",
    "Shard",
    "decode_image",
    "get_dataset",
]
