"""The ``superweight`` command: one module a subcommand, thin, over the same functions that tests use."""
