"""A ranking service over HTTP: the app that `girl serve` runs, for any ASGI server.

    app = create_app(Ranking.load(client, Path("ranker")), Limits())

The code is in `service/app.py`, which is short enough to copy and change.
"""

from girl_features.integrations.online_ranking import Ranking
from girl_features.integrations.service.app import create_app
from girl_features.integrations.service.limits import Limits

__all__ = ["Limits", "Ranking", "create_app"]
