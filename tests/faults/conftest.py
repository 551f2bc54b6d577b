"""The fixtures of the integration tests: a fault is looked for the way a user would meet it."""

from tests.integration.conftest import project, run

__all__ = ["project", "run"]
