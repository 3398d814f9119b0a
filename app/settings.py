"""Every setting, read from the environment (prefix ZEROPOINT_) here and nowhere else."""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from zeropoint.schema.job import COMPILE_SECONDS


class Settings(BaseSettings):
    """One frozen set of values for a process; `.env.example` lists each with its default."""

    model_config = SettingsConfigDict(env_prefix="ZEROPOINT_", env_parse_none_str="None", frozen=True)

    database_url: str = "sqlite:///data/zeropoint.db"
    broker_url: str = "redis://127.0.0.1:6379/0"
    broker_prefix: str = "zeropoint:"
    storage_url: str = "file:data/storage"
    keep_blobs_seconds: int = Field(default=24 * 3600, ge=3600)
    keep_jobs_seconds: int | None = Field(default=None, ge=60)
    scratch_dir: Path = Path("data/scratch")
    max_upload_bytes: int = Field(default=4 * 2**30, ge=1)
    max_json_bytes: int = Field(default=2**20, ge=1024)
    connections: int = Field(default=1000, ge=1)
    head_seconds: float = Field(default=10, gt=0)
    idle_seconds: float = Field(default=30, gt=0)
    start_seconds: float = Field(default=60, gt=0)
    stop_seconds: float = Field(default=5, ge=0)
    gate_memory_bytes: int = Field(default=2 * 2**30, ge=2**27)
    gate_seconds: int = Field(default=300, ge=1)
    gate_program_bytes: int = Field(default=64 * 2**20, ge=1024)
    gate_nodes: int = Field(default=50_000, ge=1)
    gate_tensors: int = Field(default=20_000, ge=1)
    gate_tensor_bytes: int = Field(default=64 * 2**30, ge=1)
    gate_dataset_bytes: int = Field(default=16 * 2**30, ge=1)
    gate_folder_bytes: int = Field(default=16 * 2**30, ge=1)
    worker_device: Literal["cpu", "cuda"] = "cpu"
    worker_slots: int = Field(default=1, ge=1, le=64)
    worker_stop_seconds: int = Field(default=30, ge=0)
    lease_seconds: float = Field(default=60, ge=1)
    reconcile_seconds: float = Field(default=5, gt=0)
    garbage_seconds: float = Field(default=3600, gt=0)
    checkpoint_seconds: float = Field(default=30, gt=0)
    job_pending_seconds: int = Field(default=7 * 24 * 3600, ge=1)
    job_seconds: int = Field(default=6 * 3600, ge=1)
    compile_seconds: int = Field(default=COMPILE_SECONDS, ge=0)
    job_memory_bytes: int = Field(default=16 * 2**30, ge=2**30)
    job_disk_bytes: int = Field(default=64 * 2**30, ge=2**20)
    sandbox_require: str = "landlock,seccomp,rlimits"


@cache
def get_settings() -> Settings:
    """Return the settings of this process. Raises SystemExit, naming each that has a wrong value but not the value."""
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(f"ZEROPOINT_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors())
        raise SystemExit(f"This process does not start: {faults}. docs/reference/settings.md lists all.") from None
