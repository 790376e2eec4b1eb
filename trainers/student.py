"""The student: a small network that estimates the vector of a generated JD from the vector of the CV.

The generator takes seconds for a CV, the student microseconds, so the student serves seekers who have no generated JD
yet. It is trained on the vectors in the store. Its loss is the cosine distance to the generator's vectors and, if
`student.ranker_weight` is set, the loss of a dot ranker (GIRL, eq. 15) on the decisions of the ranking train window.
It starts as the best linear map, and that map is kept if the hidden layer does not help on held-out seekers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from girl_features.config import GirlConfig, StudentConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import SentenceTransformerEncoder
from girl_features.errors import CheckpointError, EmptyWindowError
from girl_features.input.splits import cut_windows, ranking_split
from girl_features.input.tables import open_tables
from girl_features.lookup.bundle import Bundle, write_bundle
from girl_features.lookup.encoder_export import export_encoder
from girl_features.lookup.vector_map import Ridge, VectorMap, fit_ridge
from girl_features.pairs import join_pairs
from girl_features.progress import Progress
from girl_features.schema import CV_VECTOR, GENERATED_JD_VECTOR, JOB_SEEKER_ID, MATCHED
from girl_features.sql import connected
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, GENERATED_JDS, vectors_of
from girl_features.store.user_files import keep_out_of_git
from girl_features.torch_threads import one_thread
from girl_features.trainers.training_data import hold_out_seekers
from girl_features.vectors.similarity import mean_cosine, mean_of_nearest, unit_rows

MIN_SEEKERS = 20
WEIGHT_DECAY = 0.01
N_COMPARED = 32  # texts on which the exported encoder is compared with the original
N_NEIGHBOURS = 10  # whose mean the student is compared with


class StudentData(NamedTuple):
    """Vectors of n CVs and of the JDs generated for them."""

    seeker_ids: list[str]  # n
    cvs: np.ndarray  # (n, d) float32
    generated: np.ndarray  # (n, d) float32

    def seeker_numbers(self) -> np.ndarray:
        """Return (n,) int32 numbers, one for each seeker, from 0 in the order of the CVs."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for name in self.seeker_ids], np.int32)

    def take(self, rows: np.ndarray) -> StudentData:
        """Return the rows with these indices."""
        return StudentData([self.seeker_ids[i] for i in rows.tolist()], self.cvs[rows], self.generated[rows])


class RankedPairs(NamedTuple):
    """Vectors and labels of m decisions of the ranking train window."""

    cvs: np.ndarray  # (m, d) float32
    jds: np.ndarray  # (m, d) float32
    matched: np.ndarray  # (m,) bool


class FittedStudent(NamedTuple):
    """A student with its measures on held-out seekers."""

    student: VectorMap
    measures: dict[str, float]


def train_student(config: GirlConfig, contract: FeatureContract) -> Path:
    """Train the student of `contract` on the store's vectors, and return the folder of the bundle for ranking hosts.

    Raises:
        EmptyWindowError: too few seekers have a generated JD.
    """
    settings, store = config.student, PartsStore(config.store_dir)
    data = read_student_data(store, contract, settings.max_rows)
    pairs = _ranked_pairs(config, contract) if settings.ranker_weight else None
    student, measures = fit_student(data, settings, pairs)
    bundle = Bundle(
        contract=contract,
        prior=data.generated.mean(axis=0),
        cv_mean=data.cvs.mean(axis=0),
        student=student,
        neighbours_cv=unit_rows(data.cvs),
        neighbours_generated=data.generated,
        neighbours_seeker=data.seeker_numbers(),
    )
    made: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "measures": measures,
        "n_neighbours": len(data.cvs),
    }
    keep_out_of_git(config.workspace)
    folder = config.students_dir / contract.fingerprint
    if importlib.util.find_spec("openvino") is None or Path(config.encoder.name).name != contract.encoder.name:
        return write_bundle(folder, bundle, made)
    texts = _sample_jds(store, contract)
    encoder = SentenceTransformerEncoder(config.encoder.name, dtype=contract.encoder.dtype)

    def add_encoder(new: Path) -> None:
        try:
            made["encoder"] = export_encoder(encoder, config.encoder.name, texts, new)
        except CheckpointError as error:  # the bundle still serves hosts that have torch
            made["encoder"] = {"not exported": str(error)}

    return write_bundle(folder, bundle, made, add_encoder)


def read_student_data(store: PartsStore, contract: FeatureContract, max_rows: int) -> StudentData:
    """Return the newest CVs with a generated JD, each text of a seeker once, at most `max_rows`.

    Raises:
        EmptyWindowError: they are of fewer than MIN_SEEKERS seekers.
    """
    generated = store.scan(GENERATED_JDS, contract.fingerprint)
    cvs = store.scan(CV_VECTORS, contract.encoder.fingerprint)
    table = None
    if generated is not None and cvs is not None:
        with connected() as connection:
            table = connection.execute(
                f"""SELECT job_seeker_id, {CV_VECTOR}, {GENERATED_JD_VECTOR} FROM {generated} AS made
                JOIN {cvs} AS cvs USING (job_seeker_id, cv_hash)
                QUALIFY row_number() OVER (PARTITION BY job_seeker_id, cv_hash ORDER BY made.updated_at DESC) = 1
                ORDER BY made.updated_at DESC, job_seeker_id LIMIT {max_rows}"""
            ).to_arrow_table()
    n_seekers = 0 if table is None else len(table[JOB_SEEKER_ID].unique())
    if table is None or n_seekers < MIN_SEEKERS:
        raise EmptyWindowError(
            f"{n_seekers} seekers have a generated JD of contract {contract.fingerprint!r}, but a student needs "
            f"{MIN_SEEKERS} to learn from; run `girl materialize` on more CVs first"
        )
    d = contract.encoder.dimension
    columns = (vectors_of(table[name], d) for name in (CV_VECTOR, GENERATED_JD_VECTOR))
    return StudentData(table[JOB_SEEKER_ID].to_pylist(), *columns)


def fit_student(data: StudentData, settings: StudentConfig, pairs: RankedPairs | None = None) -> FittedStudent:
    """Train a student, and choose the epoch by the mean cosine on held-out seekers of `data`.

    The decisions in `pairs` are for the ranker's loss, whose weight is `ranker_weight`; None for the cosine alone.
    """
    frame = pl.DataFrame({JOB_SEEKER_ID: data.seeker_ids, "row": np.arange(len(data.seeker_ids))})
    train, held_out = (
        data.take(part["row"].to_numpy()) for part in hold_out_seekers(frame, settings.holdout, settings.seed)
    )
    ridge = fit_ridge(train.cvs, train.generated, (held_out.cvs, held_out.generated))
    student, epoch = ridge.map, 0
    if settings.hidden_size:
        with one_thread():
            student, epoch = _distil(train, held_out, ridge, settings, pairs)
    neighbours = mean_of_nearest(held_out.cvs, unit_rows(train.cvs), train.generated, N_NEIGHBOURS)
    prior = np.broadcast_to(train.generated.mean(axis=0), held_out.generated.shape)
    measures = {
        "n_seekers": len(set(data.seeker_ids)),
        "n_cvs": len(data.cvs),
        "n_held_out": len(held_out.cvs),
        "n_parameters": student.n_parameters,
        "best_epoch": epoch,
        "cosine_student": mean_cosine(student(held_out.cvs), held_out.generated),
        "cosine_linear": ridge.cosine,
        "cosine_neighbours": mean_cosine(neighbours, held_out.generated),
        "cosine_prior": mean_cosine(prior, held_out.generated),
    }
    return FittedStudent(student, measures)


class _StudentNetwork(torch.nn.Module):
    """A VectorMap with gradients, which starts as a linear map."""

    def __init__(self, linear: VectorMap, hidden_size: int, seed: int) -> None:
        super().__init__()
        d_in, d_out = linear.skip.shape
        hidden = torch.randn(d_in, hidden_size, generator=torch.Generator().manual_seed(seed))
        self.skip = torch.nn.Parameter(torch.from_numpy(linear.skip.copy()))
        self.bias = torch.nn.Parameter(torch.from_numpy(linear.bias.copy()))
        self.hidden = torch.nn.Parameter(hidden)  # CVs are unit vectors, so activations have about unit size
        self.hidden_bias = torch.nn.Parameter(torch.zeros(hidden_size))
        self.out = torch.nn.Parameter(torch.zeros(hidden_size, d_out))
        self._length = linear.length

    def forward(self, cvs: Tensor) -> Tensor:
        """Return (b, d_out) unit vectors for (b, d_in) CV vectors."""
        result = cvs @ self.skip + self.bias + functional.silu(cvs @ self.hidden + self.hidden_bias) @ self.out
        return functional.normalize(result, dim=1)

    def to_vector_map(self) -> VectorMap:
        """Return a copy of the weights as they are now."""
        weights = {name: value.detach().numpy().copy() for name, value in self.named_parameters()}
        return VectorMap(**weights, length=self._length)


class _DotRanker(torch.nn.Module):
    """Probability of a match, from the cosine between the student's vector and the JD's vector."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.offset = torch.nn.Parameter(torch.tensor(5.0)), torch.nn.Parameter(torch.tensor(-2.0))

    def loss(self, vectors: Tensor, jds: Tensor, matched: Tensor) -> Tensor:
        """Return the mean binary cross-entropy over (b,) decisions."""
        logits = self.scale * (vectors * functional.normalize(jds, dim=1)).sum(1) + self.offset
        return functional.binary_cross_entropy_with_logits(logits, matched)


def _distil(
    train: StudentData, held_out: StudentData, ridge: Ridge, settings: StudentConfig, pairs: RankedPairs | None
) -> tuple[VectorMap, int]:
    """Return the best student of all epochs and its epoch; epoch 0 is the linear map."""
    student, ranker = _StudentNetwork(ridge.map, settings.hidden_size, settings.seed), _DotRanker()
    parameters = [*student.parameters(), *(ranker.parameters() if pairs is not None else ())]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(settings.seed)
    cvs, targets = torch.from_numpy(train.cvs), functional.normalize(torch.from_numpy(train.generated), dim=1)
    best, best_epoch, best_cosine = ridge.map, 0, ridge.cosine
    n_steps = -(-len(cvs) // settings.batch_size)
    with Progress("student", settings.epochs, "epochs") as progress:
        for epoch in range(1, settings.epochs + 1):
            order = rng.permutation(len(cvs))
            for step in range(n_steps):
                rows = torch.from_numpy(order[step * settings.batch_size : (step + 1) * settings.batch_size])
                loss = 1 - (student(cvs[rows]) * targets[rows]).sum(1).mean()
                if pairs is not None:
                    picked = rng.integers(len(pairs.matched), size=settings.batch_size)
                    jds, matched = torch.from_numpy(pairs.jds[picked]), torch.from_numpy(pairs.matched[picked]).float()
                    estimates = student(torch.from_numpy(pairs.cvs[picked]))
                    loss = loss + settings.ranker_weight * ranker.loss(estimates, jds, matched)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            candidate = student.to_vector_map()
            cosine = mean_cosine(candidate(held_out.cvs), held_out.generated)
            if cosine > best_cosine:
                best, best_epoch, best_cosine = candidate, epoch, cosine
            progress.advance()
    return best, best_epoch


def _sample_jds(store: PartsStore, contract: FeatureContract) -> list[str]:
    relation = store.scan(GENERATED_JDS, contract.fingerprint)
    query = f"SELECT {GENERATED_JDS}[1] FROM {relation} ORDER BY hash(cv_hash) LIMIT {N_COMPARED}"
    with connected() as connection:
        return [text for (text,) in connection.execute(query).fetchall()]


def _ranked_pairs(config: GirlConfig, contract: FeatureContract) -> RankedPairs:
    with open_tables(config) as tables:
        decisions = ranking_split(tables, cut_windows(tables, config.windows)).train
    features = join_pairs(config.feast_repo, contract, decisions)
    return RankedPairs(features.cv, features.jd, decisions[MATCHED].to_numpy())
