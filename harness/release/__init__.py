"""Base against release: whether what carries the model survived quantising, converting or tuning."""

from harness.release.comparison import Check, Comparison
from harness.release.limits import Limits

__all__ = ["Check", "Comparison", "Limits"]
