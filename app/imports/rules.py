"""What may be imported from where: the operator's list, and the limits of one import."""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from app.errors import Invalid, ServiceError, TooLarge, Unavailable
from app.outbound import AddressRefused, AnswerTooLong, Network, OutboundError, Rules, networks_of
from app.settings import Settings, words_of

ANY = "*"
SOURCE_AWAY = "source_unavailable"


@dataclass(frozen=True)
class ImportRules:
    """The settings that imports have; times are seconds."""

    hosts: tuple[str, ...]
    """example.org, *.example.org, example.org:8443, http://example.org, s3://bucket, or * for every host over https."""
    private: tuple[Network, ...]
    most_bytes: int
    seconds: float
    idle_seconds: float
    hub_endpoint: str
    hub_tokens: Path | None
    settings: Settings
    """With the endpoint and region of buckets."""
    tls: ssl.SSLContext | None = None

    def calls(self, until: float) -> Rules:
        """Return the rules of one call of an import that ends at a time of the monotonic clock."""
        left = max(until - time.monotonic(), 0.001)
        return Rules(left, self.idle_seconds, self.most_bytes, plain=True, private=self.private, tls=self.tls)

    def check_host(self, url: httpx.URL) -> None:
        """Raise Invalid unless the operator allows this host, at this port and by this scheme."""
        self.check_on()
        if not any(_matches(entry, url) for entry in self.hosts):
            raise not_allowed(
                f"{url.scheme}://{url.netloc.decode('ascii', 'replace')[:128]} is not on the list of hosts"
            )

    def check_bucket(self, bucket: str) -> None:
        """Raise Invalid unless the operator allows this bucket: it is read with the service's own credentials."""
        self.check_on()
        if f"s3://{bucket}" not in self.hosts:
            raise not_allowed(f"s3://{bucket[:64]} is not on the list of hosts")

    def check_on(self) -> None:
        """Raise Invalid where the operator allows no host at all."""
        if not self.hosts:
            raise not_allowed("imports are off")

    def hub_token(self, project: str) -> str | None:
        """Return the project's token for the hub, as the operator's folder has it now; None without one."""
        try:
            return (self.hub_tokens / project).read_text().strip() or None if self.hub_tokens else None
        except FileNotFoundError:
            return None

    def smaller(self, most_bytes: int) -> "ImportRules":
        """Return the rules for what may have no more bytes than this."""
        return replace(self, most_bytes=most_bytes)


def rules_of(settings: Settings) -> ImportRules:
    """Return the rules that the settings give."""
    return ImportRules(
        hosts=tuple(words_of(settings.import_hosts)),
        private=networks_of(words_of(settings.import_private_addresses)),
        most_bytes=settings.max_upload_bytes,
        seconds=settings.import_seconds,
        idle_seconds=settings.idle_seconds,
        hub_endpoint=settings.hub_endpoint.rstrip("/"),
        hub_tokens=settings.hub_tokens_dir,
        settings=settings,
    )


@contextmanager
def refusals(rules: ImportRules) -> Iterator[None]:
    """Raise each error of a call as a refusal: Invalid, TooLarge, Unavailable."""
    try:
        yield
    except AddressRefused as error:
        raise not_allowed(str(error).rstrip("."), OF_NETWORKS) from error
    except AnswerTooLong as error:
        raise too_large(rules.most_bytes) from error
    except OutboundError as error:
        raise away(str(error)) from error


OF_HOSTS = "to allow the host: ZEROPOINT_IMPORT_HOSTS"
OF_NETWORKS = "whether its network may be called: ZEROPOINT_IMPORT_PRIVATE_ADDRESSES"


def not_allowed(why: str, ask: str = OF_HOSTS) -> Invalid:
    """Return the refusal of a source that the operator does not allow. `ask`: what the operator can do about it."""
    return Invalid(
        "import_not_allowed",
        f"The service does not fetch this: {why}.",
        f"Upload the file, or ask the operator {ask}.",
    )


def invalid(detail: str) -> Invalid:
    """Return the refusal of a source that names nothing which can be fetched."""
    return Invalid(
        "source_invalid", detail, "Name an https:// address, s3://bucket/key, or hf://organization/name@revision."
    )


def refused_by_source(host: str, status: int) -> ServiceError:
    """Return what an answer with an error means: a passing one is tried again."""
    if status in (408, 425, 429) or status >= 500:
        return away(f"{host} answers {status}.")
    return Invalid(
        "source_refused",
        f"{host} answers {status}.",
        "Check the address, and whether reading it needs an account; for a hub, the operator can set a token.",
    )


def away(detail: str) -> Unavailable:
    """Return the refusal of a source that does not answer; it is tried again."""
    return Unavailable("source_unavailable", detail, "Import it again later, or upload the file.", retry_after=60)


def too_large(most_bytes: int) -> TooLarge:
    """Return the refusal of a source with too many bytes."""
    return TooLarge(
        "upload_too_large",
        f"The source has more than {most_bytes} bytes, the largest that is accepted here.",
        "Import a smaller file, or ask the operator to raise ZEROPOINT_MAX_UPLOAD_BYTES.",
    )


def _matches(entry: str, url: httpx.URL) -> bool:
    scheme, _, place = entry.rpartition("://")
    if url.scheme != (scheme or "https"):
        return False
    if place == ANY:
        return url.port is None
    host, _, port = place.partition(":")
    if (url.port or None) != (int(port) if port else None):
        return False
    name = url.host.lower()
    return name.endswith(host[1:]) and name != host[2:] if host.startswith("*.") else name == host.lower()
