"""Every knob of the daemon, and the only reader of the environment and of YAML."""

from anomaly_daemon.settings.comparison import (
    DECIDING,
    RULES,
    changed,
    digest,
    features_of,
    is_under,
    live_part,
    restart_needed,
    take_live,
    with_live_part,
)
from anomaly_daemon.settings.evidence import NETWORK_CHANNELS, Adaptive, Chart, Evidence, Novelty
from anomaly_daemon.settings.incident_rules import Incidents, Override, Regime, Window
from anomaly_daemon.settings.kafka import Kafka
from anomaly_daemon.settings.log_url import brokers, checked_log, masked
from anomaly_daemon.settings.model import Engine, Model, Training
from anomaly_daemon.settings.quality import Quality
from anomaly_daemon.settings.record_schema import NUMBER_KINDS, Feature, FeatureKind, RecordSchema, Time
from anomaly_daemon.settings.reference import reference
from anomaly_daemon.settings.secret_files import SECRETS_DIR_VARIABLE, exposed_secrets
from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.service import Checkpoints, Logging, Shutdown
from anomaly_daemon.settings.sources import load
from anomaly_daemon.settings.threshold import RIVER_PREFIX, Threshold, is_river
from anomaly_daemon.settings.topics import Input, Output, TopicCreation
from anomaly_daemon.settings.values import (
    KAFKA_NAME,
    PARTITIONS_MAX,
    Duration,
    Instant,
    format_duration,
    microseconds_since_1970,
    parse_duration_s,
    parse_instant_us,
)
from anomaly_daemon.settings.whole import ENVIRONMENT_PREFIX, Settings

__all__ = [
    "DECIDING",
    "ENVIRONMENT_PREFIX",
    "KAFKA_NAME",
    "NETWORK_CHANNELS",
    "NUMBER_KINDS",
    "PARTITIONS_MAX",
    "RIVER_PREFIX",
    "RULES",
    "SECRETS_DIR_VARIABLE",
    "Adaptive",
    "Chart",
    "Checkpoints",
    "Duration",
    "Engine",
    "Evidence",
    "Feature",
    "FeatureKind",
    "Incidents",
    "Input",
    "Instant",
    "Kafka",
    "Logging",
    "Model",
    "Novelty",
    "Output",
    "Override",
    "Quality",
    "RecordSchema",
    "Regime",
    "Section",
    "Settings",
    "Shutdown",
    "Threshold",
    "Time",
    "TopicCreation",
    "Training",
    "Window",
    "brokers",
    "changed",
    "checked_log",
    "digest",
    "exposed_secrets",
    "features_of",
    "format_duration",
    "is_river",
    "is_under",
    "live_part",
    "load",
    "masked",
    "microseconds_since_1970",
    "parse_duration_s",
    "parse_instant_us",
    "reference",
    "restart_needed",
    "take_live",
    "with_live_part",
]
