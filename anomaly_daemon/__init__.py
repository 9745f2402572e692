"""Anomaly detection on Kafka: recurrent state per entity, exactly once, with a replay that equals live."""

import os

__version__ = "0.1.0"

# Read at the first use of MKL, whose functions otherwise give a number other last bits by its place in the array, on AMD at least.
os.environ.setdefault("MKL_CBWR", "AUTO")
