"""A ranking service over HTTP: the app that `girl serve` runs, for any ASGI server.

    app = create_app(Ranking.load(client, Path("ranker")))

The code is in `service/app.py`, which is short enough to copy and change.
"""

from girl_features.integrations.service.app import create_app

__all__ = ["create_app"]
