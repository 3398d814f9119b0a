"""What a call may do and take, and how it fails."""

import ssl
from dataclasses import dataclass

from app.outbound.addresses import Network


class OutboundError(Exception):
    """A call that was not made, or not answered; the text may be shown to the user who named the address."""


class AddressRefused(OutboundError):
    """The service does not call this address."""


class TargetAway(OutboundError):
    """Nothing at the address answers as it should, or not in time."""


class AnswerTooLong(OutboundError):
    """The answer has more bytes than the call takes."""


@dataclass(frozen=True)
class Rules:
    """What a call may do and take; times are seconds, `most_bytes` is of the answer's body."""

    seconds: float
    """For the whole call, the body included."""
    idle_seconds: float
    """For each step: to resolve, to connect, to receive something more."""
    most_bytes: int
    plain: bool = False
    """Whether http is allowed beside https."""
    private: tuple[Network, ...] = ()
    """Networks that are called although they are private."""
    tls: ssl.SSLContext | None = None
    """Whose certificates are believed; None: those of the authorities that the web uses."""


def refused(host: str) -> AddressRefused:
    """Return the refusal of a host that is nothing that may be called."""
    return AddressRefused(f"{host} is no public address, and this service does not call others.")
