"""The Feast objects that `girl_feature_views` gives, and the files `girl init` writes; no registry yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast import Entity, FeatureService, FeatureView, ValueType
from feast.types import Int32, Int64

from girl_features.config import load_config
from girl_features.errors import ConfigError, StoreError, UnknownContractError
from girl_features.init_repo import init_repo, write_repo
from girl_features.store.feast_views import girl_feature_views
from girl_features.store.parts import PartsStore
from girl_features.store.repo import ViewNames, service_name
from tests.fakes import feature_contract

FIRST, SECOND = feature_contract(seed=1), feature_contract(seed=2)  # two contracts with one encoder
OTHER_ENCODER = feature_contract(dimension=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PartsStore:
    store = PartsStore(tmp_path_factory.mktemp("views") / "store")
    for contract in (FIRST, SECOND, OTHER_ENCODER):
        store.save_contract(contract)
    return store


def test_every_contract_has_its_own_views_and_service(store: PartsStore) -> None:
    objects = girl_feature_views(store.root)
    encoders = {c.encoder.fingerprint for c in (FIRST, SECOND, OTHER_ENCODER)}
    assert len(encoders) == 2
    assert len(objects) == 2 + 2 * len(encoders) + 3 * 3
    for contract in (FIRST, SECOND, OTHER_ENCODER):
        service = objects[service_name(contract.fingerprint)]
        assert isinstance(service, FeatureService)
        names = ViewNames.of(contract)
        assert [p.name for p in service.feature_view_projections] == [names.cv, names.jd, names.generated]
    assert all(name.isidentifier() for name in objects)  # they go into a module's globals()


def test_views_say_all_that_feast_needs(store: PartsStore) -> None:
    objects = girl_feature_views(str(store.root))
    for name in ViewNames.of(OTHER_ENCODER):
        view = objects[name]
        assert isinstance(view, FeatureView)
        assert Path(view.batch_source.path).is_absolute()
        assert view.batch_source.timestamp_field == "event_timestamp"
        assert view.batch_source.created_timestamp_column == "created_timestamp"
    view = objects[ViewNames.of(OTHER_ENCODER).generated]
    assert isinstance(view, FeatureView)
    assert {f.name: f.vector_length for f in view.features if f.vector_index} == {"generated_jd_vector": 5}
    assert view.tags["contract"] == OTHER_ENCODER.fingerprint
    assert view.tags["trained_until"] == "2020-01-01T00:00:00+00:00"


def test_chosen_contracts_only(store: PartsStore) -> None:
    objects = girl_feature_views(store.root, [FIRST.fingerprint])
    assert service_name(FIRST.fingerprint) in objects
    assert service_name(SECOND.fingerprint) not in objects
    with pytest.raises(UnknownContractError):
        girl_feature_views(store.root, ["0" * 12])


def test_a_missing_store_is_an_error_and_no_store_is_not(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        girl_feature_views(tmp_path / "unmounted")
    assert set(girl_feature_views(None)) == {"job_seeker", "job"}
    assert set(girl_feature_views(tmp_path)) == {"job_seeker", "job"}


def test_entities_of_the_users_own(store: PartsStore) -> None:
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    objects = girl_feature_views(store.root, job_seeker=user)
    assert "job_seeker" not in objects
    view = objects[ViewNames.of(FIRST).cv]
    assert isinstance(view, FeatureView)
    assert view.entities == ["user"]
    assert view.batch_source.field_mapping == {"job_seeker_id": "user_id"}
    for value_type, dtype in ((ValueType.INT64, Int64), (ValueType.INT32, Int32)):
        ad = Entity(name="ad", join_keys=["ad_id"], value_type=value_type)
        view = girl_feature_views(store.root, job=ad)[ViewNames.of(FIRST).jd]
        assert isinstance(view, FeatureView)
        assert [(field.name, field.dtype) for field in view.entity_columns] == [("ad_id", dtype)]
    with pytest.raises(ConfigError, match="DOUBLE ids"):
        girl_feature_views(store.root, job=Entity(name="ad", value_type=ValueType.DOUBLE))


def test_init_writes_a_repo_and_a_config_that_loads(tmp_path: Path) -> None:
    target = tmp_path / "new"
    written = init_repo(target, target / ".girl" / "store", "careers_2024")
    assert {path.name for path in written} == {
        "feature_store.yaml",
        "girl_definitions.py",
        ".feastignore",
        ".gitignore",
        "girl.yaml",
    }
    config = load_config(target / "girl.yaml")
    assert (config.name, config.store_dir, config.feast_repo) == (
        "careers_2024",
        target / ".girl" / "store",
        target,
    )
    assert "project: careers_2024" in (target / "feature_store.yaml").read_text()
    assert repr(str(config.store_dir)) in (target / "girl_definitions.py").read_text()


def test_every_commented_line_of_the_skeleton_loads_too(tmp_path: Path) -> None:
    init_repo(tmp_path, tmp_path / "elsewhere" / "store", "girl")
    path = tmp_path / "girl.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("# windows: {", "  #"))]
    prose = ("# Settings", "# Time", "# or by")
    path.write_text("\n".join(line.removeprefix("# ") for line in lines if not line.startswith(prose)))
    config = load_config(path)
    assert config.windows.valid_end is not None
    assert config.sampling.max_new_tokens == 192


def test_init_again_changes_nothing_and_never_overwrites_other_files(tmp_path: Path) -> None:
    store_dir = tmp_path / "w" / "store"
    repo = tmp_path / "repo"
    write_repo(repo, store_dir, "girl")
    write_repo(repo, store_dir, "girl")
    mine = "# my own definitions\n"
    (repo / "girl_definitions.py").write_text(mine)
    with pytest.raises(StoreError, match=r"other files named girl_definitions\.py; nothing was written"):
        init_repo(repo, store_dir, "girl")
    assert (repo / "girl_definitions.py").read_text() == mine
    assert not (repo / "girl.yaml").exists()
    init_repo(repo, store_dir, "girl", force=True)
    assert (repo / "girl_definitions.py").read_text() != mine


@pytest.mark.parametrize("name", ["../up", "a b", "", "Girl", "girl\nprovider: evil", "x" * 41])
def test_other_project_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name"):
        init_repo(tmp_path / "new", tmp_path / "store", name)
    assert not (tmp_path / "new").exists()


def test_the_store_has_one_place_in_a_workspace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`store` of a workspace"):
        init_repo(tmp_path, tmp_path / "parts", "girl")


def test_the_store_package_hands_out_views_and_plugins() -> None:
    import girl_features.store as store

    assert store.girl_feature_views is girl_feature_views
    for name in ("PartsDuckDBOfflineStore", "PackedSqliteOnlineStore", "PackedRedisOnlineStore", "ArrowComputeEngine"):
        assert {getattr(store, name).__name__, getattr(store, f"{name}Config").__name__} == {name, f"{name}Config"}
    with pytest.raises(AttributeError):
        store.NoSuchPlugin  # noqa: B018
