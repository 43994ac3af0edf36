"""The errors of every device."""


class DeviceError(RuntimeError):
    """The engine, or the way to it, did not do what it must; the message says what and what helps."""


class PacketError(DeviceError):
    """A packet from the engine that is not what its sizes say."""
