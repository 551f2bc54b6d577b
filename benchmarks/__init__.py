"""What the harness costs, beside what it is compared with: `python -m benchmarks`."""
