"""Baselines of the journal paper's table that read ids or words: NCF, PJFNN and APJFNN as plain torch modules.

Each takes two (b, t) integer tensors, one for the seekers and one for the jobs, and returns (b,) logits. In words, 0 is
padding. In words and ids, 1 stands for anything that the training part does not contain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNKNOWN = 1
_EMBEDDING, _ID_EMBEDDING = 32, 16  # sizes for words and ids
_UNKNOWN_SHARE = 0.1  # of the ids that training replaces by UNKNOWN
_FILTERS = 48
_STATES = 24  # LSTM states in each direction


class NCF(nn.Module):
    """Neural collaborative filtering (He et al., 2017): a product of id embeddings beside an MLP of both."""

    def __init__(self, n_seekers: int, n_jobs: int) -> None:
        super().__init__()
        size = _ID_EMBEDDING
        self.seeker_product, self.job_product = nn.Embedding(n_seekers, size), nn.Embedding(n_jobs, size)
        self.seeker_mlp, self.job_mlp = nn.Embedding(n_seekers, size), nn.Embedding(n_jobs, size)
        self.mlp = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, size // 2), nn.ReLU())
        self.out = nn.Linear(size + size // 2, 1)
        for table in (self.seeker_product, self.job_product, self.seeker_mlp, self.job_mlp):
            nn.init.normal_(table.weight, std=0.2)

    def forward(self, seekers: Tensor, jobs: Tensor) -> Tensor:
        """Return (b,) logits of (b, 1) ids. Training replaces some ids by UNKNOWN, so that UNKNOWN is learned too."""
        seekers, jobs = self._with_unknown(seekers[:, 0]), self._with_unknown(jobs[:, 0])
        product = self.seeker_product(seekers) * self.job_product(jobs)
        deep = self.mlp(torch.cat([self.seeker_mlp(seekers), self.job_mlp(jobs)], dim=1))
        logits: Tensor = self.out(torch.cat([product, deep], dim=1)).squeeze(1)
        return logits

    def _with_unknown(self, ids: Tensor) -> Tensor:
        if not self.training:
            return ids
        return torch.where(torch.rand(ids.shape) < _UNKNOWN_SHARE, UNKNOWN, ids)


class PJFNN(nn.Module):
    """Person-job fit by joint representations (Zhu et al., 2018): two-layer CNNs, max-pooled CV, mean-pooled JD.

    As in the paper, the match is a cosine. A learned scale and offset turn it into a logit.
    """

    def __init__(self, n_words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(n_words, _EMBEDDING, padding_idx=0)
        self.cv_cnn, self.jd_cnn = _cnn(), _cnn()
        self.scale, self.offset = nn.Parameter(torch.tensor([4.0])), nn.Parameter(torch.tensor([-2.0]))

    def forward(self, cvs: Tensor, jds: Tensor) -> Tensor:
        """Return (b,) logits of (b, t) and (b, u) word ids."""
        cv, jd = self.cv_cnn(self.words(cvs).transpose(1, 2)), self.jd_cnn(self.words(jds).transpose(1, 2))  # (b, f, t)
        cv_mask, jd_mask = (cvs > 0)[:, None], (jds > 0)[:, None]
        pooled_cv = torch.where(cv_mask, cv, -1e4).amax(dim=2) * cv_mask.any(dim=2)  # a blank CV is a zero vector
        pooled_jd = (jd * jd_mask).sum(dim=2) / jd_mask.sum(dim=2).clamp(min=1)
        cosines = nn.functional.cosine_similarity(pooled_cv, pooled_jd, dim=1, eps=1e-6)
        logits: Tensor = self.scale * cosines + self.offset
        return logits


class APJFNN(nn.Module):
    """Ability-aware person-job fit (Qin et al., 2018): BiLSTM states, attention within the JD and from JD to CV.

    The summary of the JD decides on the attention to each word of the CV. There is one level of attention; the paper
    has a second one over a list of requirements, which our JDs do not have.
    """

    def __init__(self, n_words: int) -> None:
        super().__init__()
        width = 2 * _STATES
        self.words = nn.Embedding(n_words, _EMBEDDING, padding_idx=0)
        self.lstm = nn.LSTM(_EMBEDDING, _STATES, batch_first=True, bidirectional=True)
        self.within_jd = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.of_cv, self.of_jd = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.jd_to_cv = nn.Linear(width, 1)
        self.mlp = nn.Sequential(nn.Linear(4 * width, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 1))

    def forward(self, cvs: Tensor, jds: Tensor) -> Tensor:
        """Return (b,) logits of (b, t) and (b, u) word ids."""
        cv, jd = self._states(cvs), self._states(jds)  # (b, t, w), (b, u, w)
        required = _attend(self.within_jd(jd).squeeze(2), jd, jds > 0)  # (b, w)
        relevance = self.jd_to_cv(torch.tanh(self.of_cv(cv) + self.of_jd(required)[:, None])).squeeze(2)  # (b, t)
        abilities = _attend(relevance, cv, cvs > 0)  # (b, w)
        joint = torch.cat([abilities, required, abilities - required, abilities * required], dim=1)
        logits: Tensor = self.mlp(joint).squeeze(1)
        return logits

    def _states(self, words: Tensor) -> Tensor:
        lengths = (words > 0).sum(dim=1).clamp(min=1)  # on the CPU, as packing requires
        packed = nn.utils.rnn.pack_padded_sequence(self.words(words), lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=words.shape[1]
        )
        return states


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(_EMBEDDING, _FILTERS, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(_FILTERS, _FILTERS, 3, padding=1),
        nn.Tanh(),
    )


def _attend(scores: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """Return the (b, w) mean of (b, t, w) states, weighted by the softmax of (b, t) scores over the masked words."""
    weights = torch.where(mask, scores, -1e4).softmax(dim=1)
    return (weights[:, :, None] * states * mask[:, :, None]).sum(dim=1)
