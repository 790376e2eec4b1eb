"""Names of the Feast objects of a contract. Importing this module does not import Feast."""

from __future__ import annotations

from typing import NamedTuple

from girl_features.contract import FeatureContract


class ViewNames(NamedTuple):
    """Names of the four Feast views of one contract."""

    cv: str
    jd: str
    generated: str
    texts: str

    @classmethod
    def of(cls, contract: FeatureContract) -> ViewNames:
        """Return the names for `contract`. Contracts with the same encoder share the first two."""
        encoder, whole = contract.encoder.fingerprint, contract.fingerprint
        return cls(
            cv=f"cv_vectors_{encoder}",
            jd=f"jd_vectors_{encoder}",
            generated=f"generated_jd_vectors_{whole}",
            texts=f"generated_jds_{whole}",
        )


def service_name(fingerprint: str) -> str:
    """Return the name of the FeatureService of one contract."""
    return f"girl_{fingerprint}"
