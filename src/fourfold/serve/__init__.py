"""Runs over HTTP: an endpoint for each verb, read from its signature, and the page."""
