"""A Feast repo that applies as it stands, and the template of `girl init`. Feast itself skips this file."""
