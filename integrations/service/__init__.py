"""A ranking service over HTTP."""

from girl_features.errors import require

# The modules of this package import these at their top. The check here runs before any of them, so that the error
# names our extra.
require("fastapi", "serve")
require("prometheus_client", "serve")
