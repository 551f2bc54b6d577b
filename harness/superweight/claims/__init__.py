"""Judge the paper's claims, and hold the verdicts to what is expected."""
