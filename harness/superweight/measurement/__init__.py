"""Measure what conditions do to the predictions of a model and to the text it writes."""
