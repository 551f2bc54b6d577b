"""Write what was found as report.json for other tools, and as one page with figures for people.

Nothing is imported here: matplotlib is waited for only where a report is written.
"""
