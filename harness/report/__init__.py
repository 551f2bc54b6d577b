"""What was found, written down: report.json for other tools, and one page with figures for people."""

from harness.report.document import of_comparison, of_model, of_models, read_document, verdict_row
from harness.report.writing import write_report

__all__ = ["of_comparison", "of_model", "of_models", "read_document", "verdict_row", "write_report"]
