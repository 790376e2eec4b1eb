"""Generated job descriptions as job-seeker features, in a Feast store backed by DuckDB.

A public name is imported when it is first used, so that `import girl_features` loads no heavy package.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = {  # public name -> its module, for the interpreter; the imports below are for type checkers
    "AsyncFeatureClient": "girl_features.lookup",
    "FeatureClient": "girl_features.lookup",
    "FeatureContract": "girl_features.contract",
    "GirlConfig": "girl_features.config",
    "GirlError": "girl_features.errors",
    "PairColumns": "girl_features.ranker",
    "PairFeatures": "girl_features.ranker",
    "Ranker": "girl_features.ranker",
    "TextEncoder": "girl_features.encoder",
    "Tier": "girl_features.schema",
    "girl_feature_views": "girl_features.store.feast_views",
    "join_pairs": "girl_features.pairs",
    "load_config": "girl_features.config",
    "materialize": "girl_features.batch.local",
}
__all__ = list(_MODULES)

if TYPE_CHECKING:
    from girl_features.batch.local import materialize as materialize
    from girl_features.config import GirlConfig as GirlConfig
    from girl_features.config import load_config as load_config
    from girl_features.contract import FeatureContract as FeatureContract
    from girl_features.encoder import TextEncoder as TextEncoder
    from girl_features.errors import GirlError as GirlError
    from girl_features.lookup import AsyncFeatureClient as AsyncFeatureClient
    from girl_features.lookup import FeatureClient as FeatureClient
    from girl_features.pairs import join_pairs as join_pairs
    from girl_features.ranker import PairColumns as PairColumns
    from girl_features.ranker import PairFeatures as PairFeatures
    from girl_features.ranker import Ranker as Ranker
    from girl_features.schema import Tier as Tier
    from girl_features.store.feast_views import girl_feature_views as girl_feature_views
else:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})
