"""What was found, written down: report.json for other tools, and one page with figures for people.

Nothing is imported here: matplotlib is waited for only where a report is written.
"""
