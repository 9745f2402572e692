"""Errors, arranged by what the loop does about them.

AnomalyDaemonError
├── RefuseToStart          the person must change something first: exit 2, nothing was changed
│   ├── SettingsError      a key, a value, a file of settings
│   ├── ArtifactError      a model that is missing, corrupt, or for other features
│   ├── TopicError         a topic that is missing or may not be used
│   └── InputError         an argument, a range or a file named on the command line
├── Recoverable            the loop rebuilds its state from the log and goes on
│   ├── CommitFailed       the outcome of the commit is unknown or it was fenced
│   ├── LogUnavailable     the log does not answer: wait with bounded back-off
│   └── NoRoom             the device's memory, or the disk that entities spill to, is full: the same
├── CheckpointInvalid      that checkpoint is not used; an older one or the log is
└── StopAtOnce             going on could lose or repeat something: exit 1
    ├── Fenced             another instance runs under this one's identity
    └── LogCorrupt         the log is not as it was: the embedded one's file is damaged, or what was committed is gone

Bad records are not errors: they are `Rejection` values.
"""


class AnomalyDaemonError(Exception):
    """Base of every error that this package raises on purpose; its text is meant for a person."""


class RefuseToStart(AnomalyDaemonError):
    """Something must be changed by a person before the daemon can start."""


class SettingsError(RefuseToStart):
    """A setting is unknown, missing or out of range."""


class ArtifactError(RefuseToStart):
    """A model artifact cannot be used."""


class TopicError(RefuseToStart):
    """A topic is missing or may not be used."""


class InputError(RefuseToStart):
    """An argument, range or input file cannot be used."""


class Recoverable(AnomalyDaemonError):
    """The state in memory can no longer be trusted, the log can: recover from it."""


class CommitFailed(Recoverable):
    """A commit failed, was fenced by a newer generation, or ended with an unknown outcome."""


class LogUnavailable(Recoverable):
    """The log does not answer."""


class NoRoom(Recoverable):
    """The state does not fit where it is kept."""


class CheckpointInvalid(AnomalyDaemonError):
    """A checkpoint is corrupt, foreign or of another format."""


class StopAtOnce(AnomalyDaemonError):
    """Going on could lose or repeat an effect."""


class Fenced(StopAtOnce):
    """Another instance took over this one's identity."""


class LogCorrupt(StopAtOnce):
    """The embedded log's file is damaged or replaced, or a log holds less than was committed of it."""
