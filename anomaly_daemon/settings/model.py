"""The network: its size, how it is trained, where its state is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import Duration, spelled


class Model(Section):
    """The composite LSTM autoencoder: its size."""

    artifact: Path = Field(Path("model"), description="Folder of the trained artifact.")
    hidden: int | None = Field(None, ge=2, le=1024, description="Units; default: 32 up to ten features, else 64.")
    code: int | None = Field(None, ge=1, le=512, description="Width of the code; default: 8 up to ten features, else 16.")
    layers: int = Field(1, ge=1, le=4, description="Stacked LSTM layers of the encoder.")
    scale: Literal["entity", "fleet"] = Field(
        "entity",
        description="entity: each entity's own mean and deviation, shrunk from the fleet's; fleet: the artifact's for all.",
    )
    tails: Literal["clip", "asinh"] = Field(
        "clip",
        description="What becomes of values far out on their scale: clip: cut at ten deviations; asinh: drawn in, as a logarithm would. Trained.",
    )
    per: Literal["fleet", "group", "entity"] = Field(
        "fleet",
        description=(
            "fleet: one model for all; group: one for the entities of each pattern in `groups`; entity: one for each entity that training saw. "
            "Whoever has none of its own is served by the fleet's."
        ),
    )
    network: Literal["own", "shared"] = Field(
        "own",
        description="own: each of these models trains a network; shared: one network for all, only scale, charts and calibration are their own.",
    )
    groups: tuple[str, ...] = Field((), max_length=1000, description="per: group: shell-style patterns over the entity, the first that fits wins.")
    scale_observations: int = Field(
        256,
        ge=2,
        le=2048,
        description=(
            "An entity's own scale is learned over this many observations, then kept: let them span its longest rhythm, such as a day. Wild ones "
            "count little."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.per == "group") != bool(self.groups):
            raise ValueError("groups go with `per: group`, and only with it")
        if self.network == "shared" and self.per == "fleet":
            raise ValueError("network: shared goes with `per: group` or `per: entity`; with `per: fleet` one network is all there is: leave it out")
        return self


class Training(Section):
    """How `train` fits the model."""

    epochs: int = Field(30, ge=1, le=10_000, description="Passes at most.")
    patience: int = Field(5, ge=1, le=1000, description="Epochs without a better validation loss before stopping.")
    batch: int = Field(128, ge=1, le=65536, description="Sequences trained on at once.")
    steps: int = Field(50, ge=2, le=4096, description="Truncated backpropagation through time: steps of a chunk; state is carried between chunks.")
    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="Adam or RMSprop.")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="Initial; decays by a cosine to a twentieth.")
    gradient_norm_max: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    huber_delta: float = Field(3.0, gt=0, description="Errors beyond this many deviations count linearly.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Between stacked layers.")
    noise: float = Field(0.05, ge=0, le=1, description="Deviation of the noise on scaled inputs.")
    validation_share: float = Field(1 / 6, gt=0, lt=0.5, description="The latest part of the training range that decides on stopping.")
    test_share: float = Field(0.1, ge=0, lt=0.5, description="The part after the validation part that nothing is chosen on; its loss is reported.")
    seed: int = Field(0, ge=0, description="Of weights, noise and order.")


class Engine(Section):
    """The recurrent state of every entity, on the device."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA when there is one.")
    decode_every: int = Field(8, ge=1, le=256, description="Observations of an entity between two reconstructions (S).")
    decode_steps: int = Field(8, ge=1, le=256, description="Newest observations that one reconstruction rebuilds (K).")
    ring: int = Field(32, ge=1, le=4096, description="Recent observations kept per entity, for reconstruction and for the alert's window.")
    resident_max: int = Field(
        100_000,
        ge=1,
        description="Entities kept in memory; those seen least recently spill to disk and come back as they were.",
    )
    entities_max: int = Field(
        1_000_000,
        ge=1,
        description="Entities remembered per partition; beyond it the least recently seen is forgotten, and said so.",
    )
    entity_ttl: Duration = spelled("30d", "An entity unseen for longer, by event time, starts anew.")
    spill_directory: Path | None = Field(None, description="Where evicted entities spill; default: a folder of the system's temporary directory.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max(self.decode_steps, self.decode_every) > self.ring:
            raise ValueError(f"engine.ring ({self.ring}) must hold decode_steps ({self.decode_steps}) and decode_every ({self.decode_every})")
        return self
