"""The one definitions file of this Feast repo: `feast apply` reads it, by its bare name.

Add your own views beside it, or copy these few lines into a repo you already have. Keep the call in one file:
two would declare every view twice.
"""

import os

from girl_features.store.feast_views import girl_feature_views

STORE_DIR = None  # absolute path of the Parquet parts (workspace/store); the variable GIRL_STORE goes before it

globals().update(girl_feature_views(os.environ.get("GIRL_STORE") or STORE_DIR))
