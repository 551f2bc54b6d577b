"""The commands of ``superweight``, one module each: thin, over the same functions that the tests use."""
