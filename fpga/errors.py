"""The errors of every device."""


class DeviceError(RuntimeError):
    """The engine, or the way to it, did not do what it must; the message says what and what helps."""


class StalledError(DeviceError):
    """The way to the engine works, and no byte moves on it, or too many do.

    The message is `what` happened and the `remedy`; whoever can ask the engine may put its reason between them.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what + remedy)
        self.what, self.remedy = what, remedy


class PacketError(DeviceError):
    """A packet from the engine that is not what its sizes say."""
