"""The fixtures of the integration tests: a fault is looked for the way a user would meet it."""

from tests.integration.conftest import _imported, project, run

__all__ = ["_imported", "project", "run"]
