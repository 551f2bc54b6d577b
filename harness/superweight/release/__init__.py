"""Base against release: whether what carries the model survived quantising, converting or tuning."""

from superweight.release.limits import Limits
from superweight.release.result import Check, Comparison

__all__ = ["Check", "Comparison", "Limits"]
