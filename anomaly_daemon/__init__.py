"""Anomaly detection on Kafka: recurrent state per entity, exactly once, with a replay that equals live."""

__version__ = "0.1.0"
