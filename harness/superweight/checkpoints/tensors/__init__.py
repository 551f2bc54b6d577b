"""Tensors straight from a checkpoint's files, local or remote, without torch or transformers."""
