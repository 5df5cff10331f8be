"""The errors that a user is meant to see: what is wrong, where, and what to do."""


class DrnError(Exception):
    """A mistake in what the user gave us, not in the program.

    Args:
        message: What is wrong and where (file, line, value), in one line.
        hint: What to do about it, if that is not obvious.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type["DrnError"], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


class FaultError(DrnError):
    """What is nobody's mistake and may go well at another try: a process was lost or killed."""
