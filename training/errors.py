"""The errors of training, apart from PyTorch: the command line tells them from defects without loading it."""


class SettingsError(ValueError):
    """Settings that no training can run with; the message quotes what is wrong."""


class TrainingError(RuntimeError):
    """A training cannot go on; the message says why and what is kept."""
