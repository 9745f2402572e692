"""The course of training as a picture beside the artifact."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anomaly_daemon.domain.errors import ArtifactError
from anomaly_daemon.model.artifact import History

LOSS_PLOT = "loss.png"


def plot_losses(history: History, path: Path) -> None:
    """Draw training and validation loss by epoch, and the epoch whose weights were kept. Raises ArtifactError where it cannot be written.

    Where the network was not trained there is nothing to draw, and the picture of an earlier model goes.
    """
    if not history.best_epoch:
        path.unlink(missing_ok=True)
        return
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display and without pyplot's global state
    axes = figure.add_subplot()
    epochs = range(1, len(history.training_losses) + 1)
    axes.plot(epochs, history.training_losses, marker="o", markersize=3, label="training")
    axes.plot(epochs, history.validation_losses, marker="o", markersize=3, label="validation")
    best = history.validation_losses[history.best_epoch - 1]
    axes.axvline(history.best_epoch, color="grey", linestyle="--", linewidth=1, label=f"kept: epoch {history.best_epoch}, {best:.4f}")
    if history.test_loss is not None:
        axes.axhline(history.test_loss, color="grey", linestyle=":", linewidth=1, label=f"test, of the kept weights: {history.test_loss:.4f}")
    axes.set(title="Loss by epoch", xlabel="epoch", ylabel="Huber loss, prediction + reconstruction")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=120, metadata={"Software": None})
    except OSError as error:
        raise ArtifactError(f"{path}: the loss plot cannot be written: {error}; name another folder with --output or model.artifact") from None
