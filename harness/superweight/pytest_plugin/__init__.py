"""The pytest plugin: hooks and fixtures, registered by `pytest_superweight`."""
