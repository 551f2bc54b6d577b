"""A pytest harness that finds, edits and judges the super weights of a language model."""

__version__ = "0.1.0"
