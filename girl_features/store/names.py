"""Names of the Feast objects of a contract: for those who look features up and should not wait for Feast."""

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
        """The names under `contract`; the first two are shared by contracts with the same encoder."""
        encoder, whole = contract.encoder.fingerprint, contract.fingerprint
        return cls(
            cv=f"cv_vectors_{encoder}",
            jd=f"jd_vectors_{encoder}",
            generated=f"generated_jd_vectors_{whole}",
            texts=f"generated_jds_{whole}",
        )


def service_name(fingerprint: str) -> str:
    """Name of the FeatureService of one contract."""
    return f"girl_{fingerprint}"
