"""Verdicts as rows of scores in log order, and those of several micro-batches as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_daemon.channels.models import Observed
from anomaly_daemon.domain.records import Scores
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.thresholds.judge import Verdicts


def scores_of(layout: Layout, observed: Observed, verdicts: Verdicts) -> Scores:
    """Verdicts back in log order."""

    def in_log_order(values: torch.Tensor) -> NDArray[np.float64]:
        column = np.empty(len(layout.order), values.cpu().numpy().dtype)
        column[layout.order] = values.cpu().numpy()
        return column

    return Scores(
        anomaly_score=in_log_order(verdicts.anomaly_score),
        tail_probability=in_log_order(verdicts.tail_probability),
        threshold=in_log_order(verdicts.threshold),
        is_anomaly=in_log_order(verdicts.is_anomaly).astype(np.bool_),
        grade=in_log_order(verdicts.grade),
        phase=in_log_order(verdicts.phase).astype(np.int8),
        deviations=in_log_order(verdicts.deviations),
        evidence={name: in_log_order(error) for name, error in observed.error.items()},
    )


def in_order(scores: Scores, places: NDArray[np.int64]) -> Scores:
    """The rows at these places."""
    chosen = {one.name: getattr(scores, one.name)[places] for one in fields(Scores) if one.name != "evidence"}
    return Scores(**chosen, evidence={name: column[places] for name, column in scores.evidence.items()})


def joined(parts: Sequence[Scores], channels: Sequence[str]) -> Scores:
    """The pieces of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    empty = np.empty(0)

    def join(name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(part, name) for part in parts]) if parts else empty

    return Scores(
        anomaly_score=join("anomaly_score"),
        tail_probability=join("tail_probability"),
        threshold=join("threshold"),
        is_anomaly=join("is_anomaly").astype(np.bool_),
        grade=join("grade"),
        phase=join("phase").astype(np.int8),
        deviations=join("deviations"),
        evidence={name: np.concatenate([part.evidence[name] for part in parts]) if parts else empty for name in channels},
    )
