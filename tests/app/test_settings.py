from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, WrongSettings, read_settings
from tests.servers import ROOT


def test_the_example_lists_every_setting_with_its_default_and_a_comment() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(comment.startswith("# ") for comment in lines[::2])
    listed = dict(line.split("=", 1) for line in lines[1::2])
    fields = Settings.model_fields
    assert listed == {f"ZEROPOINT_{name.upper()}": str(field.default) for name, field in fields.items()}


def test_the_environment_overrides_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_SCRATCH_DIR", "/scratch")
    assert Settings().scratch_dir == Path("/scratch")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().worker_slots = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ZEROPOINT_JOB_SECOND", "5", "ZEROPOINT_JOB_SECOND is not a setting (near: ZEROPOINT_JOB_SECONDS"),
        ("zeropoint_lease", "5", "zeropoint_lease is not a setting (near: ZEROPOINT_LEASE_SECONDS"),
        ("ZEROPOINT_QQQQQQ", "5", "ZEROPOINT_QQQQQQ is not a setting."),
        ("ZEROPOINT_WORKER_SLOTS", "0", "ZEROPOINT_WORKER_SLOTS must be 1 or more."),
        ("ZEROPOINT_WORKER_SLOTS", "two", "ZEROPOINT_WORKER_SLOTS must be a whole number."),
        ("ZEROPOINT_WORKER_DEVICE", "tpu", "ZEROPOINT_WORKER_DEVICE must be 'cpu' or 'cuda'."),
        ("ZEROPOINT_ROOT_PATH", "quantization", "ZEROPOINT_ROOT_PATH must begin with a slash"),
        ("ZEROPOINT_ROOT_PATH", "/a/", "ZEROPOINT_ROOT_PATH must begin with a slash, and end without one"),
        ("ZEROPOINT_ROOT_PATH", "/a//b", "ZEROPOINT_ROOT_PATH must begin with a slash"),
        ("ZEROPOINT_ROOT_PATH", "https://example.org/a", "ZEROPOINT_ROOT_PATH must begin with a slash"),
        ("ZEROPOINT_FORWARDED_ALLOW_IPS", "proxy", "ZEROPOINT_FORWARDED_ALLOW_IPS must be addresses or networks"),
        ("ZEROPOINT_FORWARDED_ALLOW_IPS", "10.0.0.0/33", "ZEROPOINT_FORWARDED_ALLOW_IPS must be addresses"),
        ("ZEROPOINT_OTLP_ENDPOINT", "localhost:4318", "ZEROPOINT_OTLP_ENDPOINT must be the address of a receiver"),
        ("ZEROPOINT_METRICS_PORT", "0", "ZEROPOINT_METRICS_PORT must be 1 or more."),
        ("ZEROPOINT_DATABASE_URL", "mysql://u:p@h/d", "ZEROPOINT_DATABASE_URL must be sqlite:/// and a file"),
        ("ZEROPOINT_DATABASE_URL", "postgres://u:p@h/d", "ZEROPOINT_DATABASE_URL must be sqlite:/// and a file"),
        ("ZEROPOINT_DATABASE_URL", "postgresql://u:p@h:port/d", "ZEROPOINT_DATABASE_URL must be sqlite:/// and a file"),
        ("ZEROPOINT_DATABASE_URL", "sqlite://data/a.db", "ZEROPOINT_DATABASE_URL must be sqlite:/// and a file"),
        ("ZEROPOINT_DATABASE_URL", "data/a.db", "ZEROPOINT_DATABASE_URL must be sqlite:/// and a file"),
        ("ZEROPOINT_DATABASE_URL", "", "ZEROPOINT_DATABASE_URL must be sqlite:/// and a file"),
        ("ZEROPOINT_BROKER_URL", "broker:6379", "ZEROPOINT_BROKER_URL must be the address of a Redis"),
        ("ZEROPOINT_BROKER_URL", "amqp://h", "ZEROPOINT_BROKER_URL must be the address of a Redis"),
        ("ZEROPOINT_BROKER_URL", "redis://h:port/0", "ZEROPOINT_BROKER_URL must be the address of a Redis"),
        ("ZEROPOINT_STORAGE_URL", "/mnt/zeropoint", "ZEROPOINT_STORAGE_URL must be file: and a folder"),
        ("ZEROPOINT_STORAGE_URL", "s3://", "ZEROPOINT_STORAGE_URL must be file: and a folder"),
        ("ZEROPOINT_HUB_ENDPOINT", "huggingface.co", "ZEROPOINT_HUB_ENDPOINT must be an address that begins with"),
        ("ZEROPOINT_OIDC_ISSUER", "login.example.org", "ZEROPOINT_OIDC_ISSUER must be an address that begins with"),
        ("ZEROPOINT_OIDC_JWKS_URL", "https://", "ZEROPOINT_OIDC_JWKS_URL must be an address that begins with"),
        ("ZEROPOINT_OIDC_ISSUER", "https://a", "ZEROPOINT_OIDC_ISSUER does nothing without ZEROPOINT_OIDC_AUDIENCE"),
        ("ZEROPOINT_OIDC_AUDIENCE", "zp", "ZEROPOINT_OIDC_AUDIENCE does nothing without ZEROPOINT_OIDC_ISSUER"),
        ("ZEROPOINT_OIDC_JWKS_URL", "https://a", "ZEROPOINT_OIDC_JWKS_URL does nothing without ZEROPOINT_OIDC_ISSUER"),
        ("ZEROPOINT_CORS_ORIGINS", "example.org", "ZEROPOINT_CORS_ORIGINS must be origins with commas"),
        ("ZEROPOINT_CORS_ORIGINS", "https://example.org/", "ZEROPOINT_CORS_ORIGINS must be origins with commas"),
    ],
)
def test_no_process_starts_with_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WrongSettings) as refusal:
        read_settings()
    text = str(refusal.value)
    assert text.startswith(f"This process does not start:\n{said}"), text
    assert text.endswith("docs/reference/settings.md lists every setting.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "sqlite://"),
        ("database_url", "sqlite:////var/lib/a.db"),
        ("database_url", "postgresql://db/zeropoint"),
        ("database_url", "postgresql+psycopg://u:a:b/c#d?e@db:5432/zeropoint?sslmode=require"),
        ("database_url", "postgresql://u@[::1]:5432/zeropoint"),
        ("database_url", "postgresql://u@/zeropoint?host=/run/postgresql"),
        ("broker_url", "redis://"),
        ("broker_url", "redis://:a%2Fb@broker:6379/0"),
        ("broker_url", "rediss://user:a@[::1]/0?ssl_cert_reqs=required"),
        ("storage_url", "file:data"),
        ("storage_url", "file:///var/lib/zeropoint"),
        ("storage_url", "s3://models/team"),
    ],
)
def test_an_address_of_a_server_may_have_all_its_parts(name: str, value: str) -> None:
    assert getattr(Settings.model_validate({name: value}), name) == value


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZEROPOINT_A", "ZEROPOINT_B"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ZEROPOINT_JOB_SECONDS", "0")
    with pytest.raises(WrongSettings) as refusal:
        read_settings()
    assert [line.split()[0] for line in str(refusal.value).splitlines()[1:4]] == [
        "ZEROPOINT_A",
        "ZEROPOINT_B",
        "ZEROPOINT_JOB_SECONDS",
    ]


def test_what_others_put_into_the_environment_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("", "API_", "WORKER_CPU_"):
        for end in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP"):
            monkeypatch.setenv(f"ZEROPOINT_{service}{end}", "tcp://10.0.0.1:8000")
        for end in ("PROTO", "PORT", "ADDR"):
            monkeypatch.setenv(f"ZEROPOINT_{service}PORT_8000_TCP_{end}", "x")
    monkeypatch.setenv("ZEROPOINTS", "1")
    monkeypatch.setenv("ZEROPOINT", "http://127.0.0.1:8000")
    assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("uri", "taken"),
    [
        ("http://127.0.0.1:5000", True),
        ("https://mlflow.example.org/team/", True),
        ("databricks", True),
        ("databricks://profile", True),
        ("https://ann:secret@mlflow.example.org", False),
        ("file:/mlruns", False),
        ("sqlite:///mlflow.db", False),
        ("127.0.0.1:5000", False),
        ("", False),
    ],
)
def test_mlflow_is_named_by_a_server_and_no_password(uri: str, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_MLFLOW_TRACKING_URI", uri)
    if taken:
        assert read_settings().mlflow_tracking_uri == uri
        return
    with pytest.raises(WrongSettings, match="ZEROPOINT_MLFLOW_TRACKING_URI must be") as refused:
        read_settings()
    assert "secret" not in str(refused.value)
