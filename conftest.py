"""What the harness's own tests share; the fixtures for models come from the plugin."""

pytest_plugins = ["pytester"]
