"""The dashboard: server-rendered pages over the same reports as the command line and the API."""
