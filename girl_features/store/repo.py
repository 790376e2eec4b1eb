"""Open a Feast repo, run `feast apply` on one, and name its objects. Importing this module does not import Feast."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from girl_features.contract import FeatureContract
from girl_features.errors import StoreError, UnknownContractError
from girl_features.store.files import write_whole

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore
    from feast.repo_config import RepoConfig

BACKUP_SUFFIX = ".backup"


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


def open_repo(repo: Path, *, check_registry: bool = True) -> FeatureStore:
    """Return Feast's FeatureStore for the folder `repo`.

    Raises:
        StoreError: feature_store.yaml is missing or not accepted by Feast, or the registry file is truncated or
            damaged; Feast would take such a registry for an empty store.
    """
    repo = repo.expanduser().resolve()
    if not (repo / "feature_store.yaml").is_file():
        raise StoreError(
            f"no feature_store.yaml in {repo}; `girl materialize` makes one in the workspace, or set `feast.repo` to "
            f"the folder of your own Feast repo"
        )
    from feast import FeatureStore
    from feast.repo_config import FeastConfigError

    try:
        store = FeatureStore(repo_path=str(repo))
    except (FeastConfigError, yaml.YAMLError) as error:
        raise StoreError(f"Feast does not accept {repo / 'feature_store.yaml'}: {error}") from error
    registry = registry_path(store.config)
    if check_registry and registry is not None and registry.exists() and (problem := registry_problem(registry)):
        raise StoreError(f"{registry}: {problem}; `girl doctor --mend` restores it")
    return store


def contract_service(store: FeatureStore, fingerprint: str) -> FeatureService:
    """Return the FeatureService of one contract.

    Raises:
        UnknownContractError: the registry has no such service; names the contracts that it has.
    """
    services = {service.name: service for service in store.list_feature_services()}
    if service_name(fingerprint) in services:
        return services[service_name(fingerprint)]
    prefix = service_name("")
    known = [name.removeprefix(prefix) for name in services if name.startswith(prefix)]
    raise UnknownContractError(fingerprint, sorted(known), f"registry of {store.repo_path}")


def join_key(store: FeatureStore, view: str) -> str:
    """Return the name of the id column that the Feast view `view` joins on."""
    return str(store.get_feature_view(view).join_keys[0])


def apply_repo(repo: Path) -> None:
    """Do what `feast apply` does in the folder `repo`, without its output. May be called for several repos in turn.

    Not safe beside other threads: while it runs, the working directory and `sys.path` are those of the repo.

    Raises:
        StoreError: no Feast repo there, or Feast refused it; includes Feast's output.
    """
    config = open_repo(repo).config
    repo = repo.expanduser().resolve()
    from feast.repo_operations import apply_total, get_repo_files

    printed = io.StringIO()
    modules = {".".join(path.relative_to(repo).with_suffix("").parts) for path in get_repo_files(repo)}
    with _as_feast_runs(repo, modules), redirect_stdout(printed), redirect_stderr(printed):
        try:
            apply_total(config, repo, skip_source_validation=True)
        except SystemExit as error:  # Feast exits on a bad project or definitions file
            raise StoreError(f"`feast apply` refused {repo}: {printed.getvalue().strip()}") from error
    registry = registry_path(config)
    if registry is not None and registry.is_file():  # `girl doctor` restores it
        write_whole(registry.with_name(registry.name + BACKUP_SUFFIX), registry.read_bytes())


def registry_path(config: RepoConfig) -> Path | None:
    """Return the registry's file; None if the registry is a database or in a bucket."""
    path = str(config.registry.path)
    if config.registry.registry_type != "file" or "://" in path:
        return None
    return Path(config.repo_path or ".", path)


def registry_problem(path: Path) -> str | None:
    """Describe the damage of a registry file; None if it is whole."""
    from feast.protos.feast.core.Registry_pb2 import Registry
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        return "the registry is missing"
    data = path.read_bytes()
    if not data:
        return "the registry is empty"
    try:
        Registry().ParseFromString(data)
    except DecodeError:
        return f"the registry is cut or damaged: {len(data):,} bytes that do not parse"
    backup = path.with_name(path.name + BACKUP_SUFFIX)
    if backup.is_file():
        whole = backup.read_bytes()
        if len(data) < len(whole) and whole.startswith(data):  # truncated between two objects, so it still parses
            return f"the registry is cut: the first {len(data):,} of {len(whole):,} bytes of its backup"
    return None


@contextmanager
def _as_feast_runs(repo: Path, modules: set[str]) -> Iterator[None]:
    """Work in the folder `repo` with its modules importable by bare name; restore everything afterwards.

    Every repo has a module `girl_definitions`, and a repo's module may change between two calls. So the modules are
    removed from `sys.modules` before and after.
    """
    path, no_bytecode = list(sys.path), sys.dont_write_bytecode
    names = modules | {name.partition(".")[0] for name in modules}
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        sys.path.insert(0, str(repo))
        importlib.invalidate_caches()
        with chdir(repo):
            yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
        sys.path[:] = path
        sys.dont_write_bytecode = no_bytecode
