"""What can go wrong: one class for each stable code, with the same fields on every surface of mvm."""

from __future__ import annotations

from typing import Any, ClassVar

from ._api import Denial, ErrorCode, ErrorObject


class MvmError(Exception):
    """Something could not be done. The text says what, why, and what to do about it.

    Values of secrets, environment variables, input and output are in no error.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    """The stable code, the same in the command line's JSON and in every SDK."""
    what: str
    """What could not be done."""
    why: str
    """The cause."""
    hint: str
    """What to do about it; may be empty."""
    errno: int | None  # type: ignore[assignment,unused-ignore]  # an OSError has it too
    """The Linux error number behind it, where there is one."""
    capability: str | None
    """The capability that is missing, for `BackendUnsupported`."""
    denials: tuple[Denial, ...]
    """Every reason why a policy refused it, for `PolicyDenied`."""
    result: Any = None
    """The whole result of the command that it is about, where one has ended."""

    def __init__(
        self,
        what: str,
        why: str,
        *,
        hint: str = "",
        errno: int | None = None,
        capability: str | None = None,
        denials: tuple[Denial, ...] = (),
    ) -> None:
        super().__init__(what, why)
        self.what, self.why, self.hint = what, why, hint
        self.errno, self.capability, self.denials = errno, capability, denials

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f" ({self.hint})" if self.hint else "")

    def __reduce__(self) -> tuple[Any, ...]:
        # So that it comes whole out of another process.
        return (_again, (type(self), self.what, self.why, dict(self.__dict__), self.errno))


def _again(kind: type[MvmError], what: str, why: str, state: dict[str, Any], errno: int | None) -> MvmError:
    error = kind(what, why)
    error.__dict__.update(state)
    error.errno = errno
    return error


class CommandFailed(MvmError):
    """A command ended with another exit code than 0, or a signal, or did not start; only where that was asked for."""

    code = ErrorCode.COMMAND_FAILED


class Timeout(MvmError, TimeoutError):
    """Something was not done in time. Of a command that was killed for that, `result` is what it had said until then."""

    code = ErrorCode.TIMEOUT


class PolicyDenied(MvmError, PermissionError):
    """The policy refuses it. `denials` has every rule that does, why, and what would allow it."""

    code = ErrorCode.POLICY_DENIED


class InvalidState(MvmError):
    """It cannot be done in the sandbox's present state. The text names the state, and what is legal in it."""

    code = ErrorCode.INVALID_STATE


class SandboxUnavailable(MvmError, ConnectionError):
    """The sandbox, or its machine, cannot be reached or is gone."""

    code = ErrorCode.SANDBOX_UNAVAILABLE


class NotFound(MvmError, FileNotFoundError):
    """There is no such sandbox, snapshot, image, command, receipt or file."""

    code = ErrorCode.NOT_FOUND


class AlreadyExists(MvmError, FileExistsError):
    """The name is taken, or the file is there."""

    code = ErrorCode.ALREADY_EXISTS


class FileError(MvmError, OSError):
    """A file operation failed; `errno` says how."""

    code = ErrorCode.FILE_ERROR


class ResourceExhausted(MvmError):
    """The host, the sandbox or a bound has no room left for it."""

    code = ErrorCode.RESOURCE_EXHAUSTED


class BackendUnsupported(MvmError):
    """The backend of this machine cannot do it; `capability` names what it lacks."""

    code = ErrorCode.BACKEND_UNSUPPORTED


class RestoreRefused(MvmError):
    """Saved memory cannot go on here. The text says what does not match; the disk can still be booted."""

    code = ErrorCode.RESTORE_REFUSED


class Incompatible(MvmError):
    """This SDK and the `mvmctl` that it found are of versions that do not understand each other."""

    code = ErrorCode.INCOMPATIBLE


class NotRecordable(MvmError):
    """The call needs an answer that only a live sandbox has, or asks for what a workload has no place for."""

    code = ErrorCode.NOT_RECORDABLE
    call: str = ""
    """The call, such as `files.read`, or what was looked at of an answer, such as `CommandResult.exit_code`."""
    place: str = ""
    """Where it is: `FILE:LINE`."""


class ClosedHandle(MvmError, ValueError):
    """The handle was closed, its sandbox destroyed, or this process is a fork of the one that has it."""

    code = ErrorCode.CLOSED_HANDLE


class TransportError(MvmError, ConnectionError):
    """The connection to the sandbox's supervisor broke, or it did not answer in time."""

    code = ErrorCode.TRANSPORT_ERROR
    retryable: bool = False
    """Whether nothing can have happened, or happening twice does no harm."""


class InvalidRequest(MvmError, ValueError):
    """What was asked for makes no sense. Nothing happened."""

    code = ErrorCode.INVALID_REQUEST


class Internal(MvmError, RuntimeError):
    """A defect of mvm, or of its installation."""

    code = ErrorCode.INTERNAL


CLASSES: dict[ErrorCode, type[MvmError]] = {
    kind.code: kind
    for kind in (
        CommandFailed,
        Timeout,
        PolicyDenied,
        InvalidState,
        SandboxUnavailable,
        NotFound,
        AlreadyExists,
        FileError,
        ResourceExhausted,
        BackendUnsupported,
        RestoreRefused,
        Incompatible,
        NotRecordable,
        ClosedHandle,
        TransportError,
        InvalidRequest,
        Internal,
    )
}


def from_object(said: ErrorObject) -> MvmError:
    """The error that an answer says."""
    return CLASSES[said.code](
        said.what, said.why, hint=said.hint, errno=said.errno, capability=said.capability, denials=said.denials
    )


def transport_error(what: str, why: str, *, hint: str = "", retryable: bool = False) -> TransportError:
    """A connection that broke or stayed silent."""
    error = TransportError(what, why, hint=hint)
    error.retryable = retryable
    return error
