"""Run the ``superweight`` command: one thin module a subcommand."""
