"""Calls to addresses that users name (webhooks, imports): the one way in which the service makes them.

A name is resolved once. Every address that it has is checked, and the connection goes to a checked address itself, so
that nobody can answer the check with one address and the connection with another. TLS verifies the name. Redirects are
not followed: their answer is an answer like any other. The whole call has an end in time, and its answer one in bytes.
Proxies that the environment names are not used, for they would resolve the name again.
"""

from app.outbound.addresses import Network, is_allowed, networks_of
from app.outbound.call import Answer, called, check_url
from app.outbound.rules import AddressRefused, AnswerTooLong, OutboundError, Rules, TargetAway

__all__ = [
    "AddressRefused",
    "Answer",
    "AnswerTooLong",
    "Network",
    "OutboundError",
    "Rules",
    "TargetAway",
    "called",
    "check_url",
    "is_allowed",
    "networks_of",
]
