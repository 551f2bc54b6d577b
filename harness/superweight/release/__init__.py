"""Base against release: whether what carries the model survived quantising, converting or tuning."""

from superweight.release.comparison import Check, Comparison
from superweight.release.limits import Limits

__all__ = ["Check", "Comparison", "Limits"]
