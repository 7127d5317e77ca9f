"""The data layer: what a sample is, and how samples become published versions."""

from benchkit.data.processor import ProcessorDataset

__all__ = ["ProcessorDataset"]
