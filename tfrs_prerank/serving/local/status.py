"""Status codes that both front ends of the local server share."""

import enum

import tensorflow as tf

from tfrs_prerank.declaration import on_one_line


class Code(enum.IntEnum):
    """Canonical status codes; TensorFlow, gRPC and TF Serving number them alike."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# The HTTP status that TF Serving answers with for each code; 500 for the others.
_HTTP = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}


class StatusError(Exception):
    """A request that fails with a status code and a message for the client."""

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def of(cls, error: BaseException) -> "StatusError":
        """Returns the status that stands for any exception."""
        if isinstance(error, cls):
            return error
        if isinstance(error, tf.errors.OpError):
            return cls(Code(error.error_code), error.message)
        return cls(Code.INTERNAL, f"{type(error).__name__}: {error}")

    @property
    def http(self) -> int:
        """The HTTP status code of this error."""
        return _HTTP.get(self.code, 500)


def invalid(message: str) -> StatusError:
    """Returns an INVALID_ARGUMENT error."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def one_line(error: BaseException) -> str:
    """Returns the text of an error without line breaks, never empty."""
    return on_one_line(error) or type(error).__name__
