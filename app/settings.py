"""Every setting, read from the environment (prefix ZEROPOINT_) here and nowhere else."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from zeropoint.schema.faults import words_for
from zeropoint.schema.frozen import refusal
from zeropoint.schema.job import COMPILE_SECONDS

PREFIX = "ZEROPOINT_"

NOT_OURS = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)")
"""What others put into the environment, behind our prefix: docker-compose.yml the port, and Kubernetes the addresses of
services whose names begin with zeropoint."""

OIDC_HALVES = (
    ("oidc_issuer", "oidc_audience"),
    ("oidc_audience", "oidc_issuer"),
    ("oidc_jwks_url", "oidc_issuer"),
)
"""Settings that need another one."""

LONGEST_SECONDS = 10 * 365 * 24 * 3600
"""Of any time, so that no sum of times is out of range, wherever it is computed."""
MOST_BYTES = 2**50
"""Of any size, with room in 64 bits to multiply it."""

_SERVER = r"(?:[^:/@]*(?::[^@]*)?@)?(?:\[[^/?\]]+\]|[^/:?@]*)(?::\d*)?(?:[/?].*)?"
"""User, password, host, port and what follows; the port is a number."""
_DATABASE = re.compile(rf"sqlite(\+pysqlite)?://(/.*)?|postgresql(\+psycopg)?://{_SERVER}")
_BROKER = re.compile(rf"rediss?://{_SERVER}")
_STORAGE = re.compile(r"file:(?!(//)?$).+|s3://.+")
_ORIGIN = re.compile(r"\*|https?://[^\s/,]+")
_IMPORT_HOST = re.compile(r"\*|((https?|s3)://)?(\*\.)?[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?")
_ADDRESS = re.compile(r"https?://[^\s/][^\s]*")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")
_RECEIVER = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_MLFLOW = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?|databricks(://\w+)?")
_PATH_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")


class Settings(BaseSettings):
    """One frozen set of values for a process; `.env.example` lists each with its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_parse_none_str="None", frozen=True)

    database_url: str = "sqlite:///data/zeropoint.db"
    database_connections: int = Field(default=10, ge=2, le=1000)
    database_queue: int = Field(default=200, ge=0, le=1_000_000)
    broker_url: str = "redis://127.0.0.1:6379/0"
    broker_prefix: str = "zeropoint:"
    storage_url: str = "file:data/storage"
    storage_endpoint: str = ""
    storage_region: str = ""
    storage_public_endpoint: str = ""
    keep_blobs_seconds: int = Field(default=24 * 3600, ge=3600, le=LONGEST_SECONDS)
    keep_jobs_seconds: int | None = Field(default=None, ge=60, le=LONGEST_SECONDS)
    scratch_dir: Path = Path("data/scratch")
    max_upload_bytes: int = Field(default=4 * 2**30, ge=1, le=MOST_BYTES)
    upload_seconds: int = Field(default=24 * 3600, ge=1, le=LONGEST_SECONDS)
    import_hosts: str = ""
    import_private_addresses: str = ""
    import_seconds: int = Field(default=3600, ge=1, le=LONGEST_SECONDS)
    hub_endpoint: str = "https://huggingface.co"
    hub_tokens_dir: Path | None = None
    max_json_bytes: int = Field(default=2**20, ge=1024, le=2**30)
    connections: int = Field(default=1000, ge=1, le=1_000_000)
    head_seconds: float = Field(default=10, ge=0.1, le=LONGEST_SECONDS)
    idle_seconds: float = Field(default=30, ge=0.1, le=LONGEST_SECONDS)
    start_seconds: float = Field(default=60, ge=0.1, le=LONGEST_SECONDS)
    stop_seconds: float = Field(default=5, ge=0, le=LONGEST_SECONDS)
    root_path: str = ""
    forwarded_allow_ips: str = ""
    cors_origins: str = ""
    auth: Literal["off", "on", "off-everywhere"] = "off"
    oidc_issuer: str | None = None
    oidc_audience: str | None = Field(default=None, min_length=1)
    oidc_jwks_url: str | None = None
    oidc_project_claim: str = "zeropoint_project"
    oidc_role_claim: str = "zeropoint_role"
    quota_bytes: int | None = Field(default=None, ge=0, le=2**60)
    quota_uploads: int | None = Field(default=None, ge=0, le=1_000_000)
    quota_jobs: int | None = Field(default=None, ge=0, le=1_000_000)
    quota_jobs_a_day: int | None = Field(default=None, ge=0, le=1_000_000)
    quota_requests_a_second: int | None = Field(default=None, ge=1, le=1_000_000)
    quota_fail_open: bool = True
    gates: int | None = Field(default=None, ge=1, le=1024)
    gate_queue: int = Field(default=32, ge=0, le=1_000_000)
    gate_memory_bytes: int = Field(default=2 * 2**30, ge=2**27, le=MOST_BYTES)
    gate_seconds: int = Field(default=300, ge=1, le=LONGEST_SECONDS)
    gate_program_bytes: int = Field(default=64 * 2**20, ge=1024, le=MOST_BYTES)
    gate_nodes: int = Field(default=50_000, ge=1, le=1_000_000_000)
    gate_tensors: int = Field(default=20_000, ge=1, le=1_000_000_000)
    gate_tensor_bytes: int = Field(default=64 * 2**30, ge=1, le=MOST_BYTES)
    gate_dataset_bytes: int = Field(default=16 * 2**30, ge=1, le=MOST_BYTES)
    gate_folder_bytes: int = Field(default=16 * 2**30, ge=1, le=MOST_BYTES)
    waits: int = Field(default=1000, ge=0, le=1_000_000)
    listeners: int = Field(default=500, ge=0, le=1_000_000)
    webhook_private_addresses: str = ""
    worker_device: Literal["cpu", "cuda"] = "cpu"
    worker_slots: int = Field(default=1, ge=1, le=64)
    worker_stop_seconds: int = Field(default=30, ge=0, le=LONGEST_SECONDS)
    lease_seconds: float = Field(default=60, ge=1, le=LONGEST_SECONDS)
    reconcile_seconds: float = Field(default=5, ge=0.1, le=LONGEST_SECONDS)
    garbage_seconds: float = Field(default=3600, ge=0.1, le=LONGEST_SECONDS)
    checkpoint_seconds: float = Field(default=30, ge=0.1, le=LONGEST_SECONDS)
    job_pending_seconds: int = Field(default=7 * 24 * 3600, ge=1, le=LONGEST_SECONDS)
    job_seconds: int = Field(default=6 * 3600, ge=1, le=LONGEST_SECONDS)
    compile_seconds: int = Field(default=COMPILE_SECONDS, ge=0, le=LONGEST_SECONDS)
    job_memory_bytes: int = Field(default=16 * 2**30, ge=2**30, le=MOST_BYTES)
    job_disk_bytes: int = Field(default=64 * 2**30, ge=2**20, le=MOST_BYTES)
    sandbox_require: str = "landlock,seccomp,rlimits"
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    metrics_host: str = "127.0.0.1"
    otlp_endpoint: str | None = None
    mlflow_tracking_uri: str | None = None
    log_format: Literal["auto", "text", "json"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        if not _DATABASE.fullmatch(value):
            raise refusal("must be sqlite:/// and a file, or postgresql://user:password@host:port/database")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: str) -> str:
        if not _BROKER.fullmatch(value):
            raise refusal("must be the address of a Redis: redis://:password@host:port/0, or rediss://")
        return value

    @field_validator("storage_url")
    @classmethod
    def _storage(cls, value: str) -> str:
        if not _STORAGE.fullmatch(value):
            raise refusal("must be file: and a folder, such as file:data/storage, or s3:// and a bucket")
        return value

    @field_validator("hub_endpoint", "oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise refusal("must be an address that begins with https:// or http://")
        return value

    @field_validator("root_path")
    @classmethod
    def _path_prefix(cls, value: str) -> str:
        if not _PATH_PREFIX.fullmatch(value):
            raise refusal("must begin with a slash, and end without one, such as /quantization")
        return value

    @field_validator("storage_endpoint", "storage_public_endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if value and not _ENDPOINT.fullmatch(value):
            raise refusal("must be an address without a path, such as https://minio.example.org:9000")
        return value

    @field_validator("import_hosts")
    @classmethod
    def _import_hosts(cls, value: str) -> str:
        if not all(map(_IMPORT_HOST.fullmatch, words_of(value))):
            raise refusal("must be hosts with commas: example.org, *.example.org, http://host:8080, s3://bucket, or *")
        return value

    @field_validator("forwarded_allow_ips", "import_private_addresses", "webhook_private_addresses")
    @classmethod
    def _networks(cls, value: str) -> str:
        for address in words_of(value):
            try:
                address == "*" or ip_network(address)
            except ValueError:
                raise refusal("must be addresses or networks with commas, such as 10.0.0.0/8, or *") from None
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _receiver(cls, value: str | None) -> str | None:
        if value is not None and not _RECEIVER.fullmatch(value):
            raise refusal("must be the address of a receiver, such as http://127.0.0.1:4318")
        return value

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _mlflow(cls, value: str | None) -> str | None:
        if value is not None and not _MLFLOW.fullmatch(value):
            raise refusal("must be the address of an MLflow server, without a password, such as http://127.0.0.1:5000")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        if not all(map(_ORIGIN.fullmatch, words_of(value))):
            raise refusal("must be origins with commas, such as https://example.org, without a path, or *")
        return value


class WrongSettings(SystemExit):
    """Settings with which no process starts: the text says which, and what to do. It ends a process that lets it."""


def require_accounts(settings: Settings, host: str) -> None:
    """Raise WrongSettings where an API without accounts would listen to other machines."""
    if settings.auth != "off" or _is_loopback(host):
        return
    raise WrongSettings(
        f"The API does not start: it would listen at {host}, where other machines reach it, and accounts are off.\n"
        f"Set {PREFIX}AUTH=on and make a key with zeropoint keys create, or listen at 127.0.0.1.\n"
        f"To let everyone who reaches it do everything, set {PREFIX}AUTH=off-everywhere."
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def words_of(setting: str) -> list[str]:
    """Return the words of a setting that is a list with commas."""
    return [word.strip() for word in setting.split(",") if word.strip()]


def read_settings() -> Settings:
    """Return the settings of the environment. Raises WrongSettings, which never shows a value."""
    wrong = [*_unknown(os.environ)]
    try:
        settings = Settings()
        wrong += _halves(settings)
    except ValidationError as error:
        wrong += [f"{PREFIX}{str(fault['loc'][0]).upper()} {words_for(fault)}." for fault in error.errors()]
    if wrong:
        listed = "docs/reference/settings.md lists every setting."
        raise WrongSettings("\n".join(["This process does not start:", *wrong, listed]))
    return settings


def _unknown(names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence about each name with our prefix that is no setting, and that nobody else is known to set."""
    known = [name.upper() for name in Settings.model_fields]
    for name in sorted(names):
        word = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and word not in known and not NOT_OURS.fullmatch(word):
            # Without the prefix, which all share: it makes any short name a near one.
            near = ", ".join(PREFIX + other for other in get_close_matches(word, known, cutoff=0.5))
            yield f"{name} is not a setting{f' (near: {near})' if near else ''}."


def _halves(settings: Settings) -> Iterator[str]:
    """Yield a sentence about each setting that does nothing without another: it would be ignored in silence."""
    for name, other in OIDC_HALVES:
        if getattr(settings, name) is not None and getattr(settings, other) is None:
            yield f"{PREFIX}{name.upper()} does nothing without {PREFIX}{other.upper()}: set both or neither."


def environment_with(others: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment for a program that it starts, with others' settings where it has none."""
    return {**others, **os.environ}


@cache
def get_settings() -> Settings:
    """Return the settings of this process. Raises WrongSettings."""
    return read_settings()
