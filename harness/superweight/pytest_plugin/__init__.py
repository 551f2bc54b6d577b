"""Hand on the hooks and fixtures of the pytest plugin, registered by `pytest_superweight`."""
