"""What cannot be compacted."""


class UnsupportedModuleError(ValueError):
    """A network cannot be compacted as it should; the message names the layer and the reason."""
