"""The REST API, `/api/v1`: what programs read and say, with the scopes of the pages."""
