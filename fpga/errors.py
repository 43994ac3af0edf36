"""The error of every device."""


class DeviceError(RuntimeError):
    """The engine, or the way to it, did not do what it must; the message says what and what helps."""
