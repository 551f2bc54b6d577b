"""Recognise and unpack the forms in which quantised models are released."""
