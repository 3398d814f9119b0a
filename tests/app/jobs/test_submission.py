"""What is accepted as a job, and what a job keeps alive, on both databases."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Model
from app.catalog.service import DATASETS, MODELS
from app.database import clock, new_id
from app.errors import Conflict, Invalid, NotFound
from app.jobs import queries, service, workers
from app.jobs.kinds import JobKind
from app.jobs.lists import JobFilter
from app.jobs.models import Worker
from app.jobs.status import JobState
from app.jobs.submission import MostSeconds, Submission
from app.jobs.work import QuantizeWork
from app.storage import Storage
from tests.factories import MOST, add_dataset, add_job, add_model, claim_one, safetensors
from zeropoint.schema.recipe import Recipe

WEIGHT_ONLY = Recipe(activations=None)


def test_the_same_key_and_request_are_one_job(session: Session) -> None:
    first = add_job(session, idempotency_key="k")
    again = add_job(session, idempotency_key="k", model=first.model_id)
    assert again.id == first.id
    assert len(queries.events(session, first.id, 0, 100)) == 1


def test_the_same_key_with_another_request_is_refused(session: Session) -> None:
    first = add_job(session, idempotency_key="k")
    with pytest.raises(Invalid) as refusal:
        add_job(session, idempotency_key="k", model=first.model_id, recipe=Recipe(activations=None, seed=1))
    assert refusal.value.code == "idempotency_key_reused"


def test_each_owner_has_keys_of_their_own(session: Session) -> None:
    mine = add_job(session, idempotency_key="k", owner="vision")
    theirs = add_job(session, idempotency_key="k", owner="speech", model=mine.model_id)
    assert theirs.id != mine.id
    with pytest.raises(Invalid) as refusal:
        add_job(session, idempotency_key="k", owner="vision", recipe=Recipe(activations=None, seed=1))
    assert mine.id not in str(refusal.value)


def test_a_repeated_request_has_another_id_and_is_the_same_job(session: Session) -> None:
    first = add_job(session, idempotency_key="k", request_id="req_1")
    again = add_job(session, idempotency_key="k", request_id="req_2", model=first.model_id)
    assert (again.id, again.request_id) == (first.id, "req_1")


def test_the_same_key_at_the_same_time_is_one_job(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        model = add_job(session).model_id
    wish = Submission(model=model, work=QuantizeWork(WEIGHT_ONLY), idempotency_key="k")
    barrier = threading.Barrier(4)
    made: list[str] = []

    def submit() -> None:
        barrier.wait()
        with sessions() as session:
            made.append(service.submit(session, wish, MOST).id)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(set(made))) == (4, 1)


@pytest.mark.parametrize(("live", "queue"), [([], "cpu"), (["cpu"], "cpu"), (["cpu", "cuda"], "cuda")])
def test_auto_takes_a_gpu_when_one_lives(session: Session, live: list[str], queue: str) -> None:
    for device in live:
        workers.announce_worker(session, device, device, {})
    assert add_job(session).device == queue


def test_a_gpu_that_nobody_has_is_refused(session: Session) -> None:
    with pytest.raises(Invalid) as refusal:
        add_job(session, device="cuda")
    assert refusal.value.code == "no_such_worker"


def test_a_worker_that_was_not_seen_for_long_does_not_count(session: Session) -> None:
    workers.announce_worker(session, "w", "cuda", {})
    worker = session.get_one(Worker, "w")
    worker.seen_at = worker.seen_at.replace(year=2020)
    session.commit()
    assert workers.live_devices(session) == set()
    workers.announce_worker(session, "w", "cuda", {})
    assert workers.live_devices(session) == {"cuda"}


def test_a_model_is_kept_while_a_live_job_needs_it(session: Session) -> None:
    job = add_job(session)
    claim_one(session)
    service.request_cancel(session, job.id)
    with pytest.raises(Conflict) as refusal:
        service.delete(session, MODELS, job.model_id)
    assert job.id in refusal.value.detail


def test_a_job_that_has_ended_outlives_its_model(session: Session) -> None:
    job = add_job(session)
    service.request_cancel(session, job.id)
    service.delete(session, MODELS, job.model_id)
    assert session.get(Model, job.model_id) is None
    assert queries.read(session, job.id).state == "cancelled"


@pytest.mark.parametrize("role", ["dataset", "evaluation_dataset"])
def test_a_dataset_is_kept_while_a_live_job_needs_it(
    session: Session, storage: Storage, archive: Path, samples: Path, role: str
) -> None:
    model = add_model(session, storage, archive)
    dataset = add_dataset(session, storage, samples.read_bytes())
    job = add_job(session, model=model.id, **{role: dataset.id})
    with pytest.raises(Conflict):
        service.delete(session, DATASETS, dataset.id)
    service.request_cancel(session, job.id)
    service.delete(session, DATASETS, dataset.id)
    with pytest.raises(NotFound):
        service.delete(session, DATASETS, dataset.id)


def test_a_model_is_not_deleted_under_a_job_that_is_being_submitted(sessions: sessionmaker[Session]) -> None:
    """Whoever comes first wins; never is there a live job without its model."""
    with sessions() as session:
        models = [add_job(session).model_id for _ in range(8)]
        for job in queries.page(session, JobKind.QUANTIZE, JobFilter(), None, 100):
            service.request_cancel(session, job.id)
    barrier = threading.Barrier(2)

    def submit(model: str) -> None:
        barrier.wait()
        with sessions() as session, suppress(NotFound):
            service.submit(session, Submission(model=model, work=QuantizeWork(WEIGHT_ONLY)), MOST)

    def delete(model: str) -> None:
        barrier.wait()
        with sessions() as session, suppress(Conflict):
            service.delete(session, MODELS, model)

    for model in models:
        threads = [threading.Thread(target=submit, args=[model]), threading.Thread(target=delete, args=[model])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with sessions() as session:
        for job in queries.page(session, JobKind.QUANTIZE, JobFilter(JobState.QUEUED), None, 100):
            assert session.get(Model, job.model_id) is not None


@pytest.mark.parametrize(
    "refused",
    [
        ([4, 3, 8, 8], Recipe(), "dataset_does_not_fit"),
        (None, Recipe(), "dataset_required"),
        (None, Recipe(activations=None, include=("heat",)), "recipe_matches_nothing"),
        ([4, 1, 8, 8], Recipe(exclude=("features.*", "encoder.*")), "recipe_matches_nothing"),
    ],
)
def test_a_job_that_can_not_work_is_refused_at_submit(
    session: Session, storage: Storage, archive: Path, refused: tuple[list[int] | None, Recipe, str]
) -> None:
    shape, recipe, code = refused
    model = add_model(session, storage, archive)
    dataset = add_dataset(session, storage, safetensors(x=("F32", shape))).id if shape else None
    with pytest.raises(Invalid) as refusal:
        add_job(session, model=model.id, dataset=dataset, recipe=recipe)
    assert refusal.value.code == code
    session.rollback()
    assert queries.page(session, JobKind.QUANTIZE, JobFilter(), None, 1) == []


def test_a_wrong_layer_name_gets_near_names(session: Session, storage: Storage, archive: Path) -> None:
    model = add_model(session, storage, archive)
    with pytest.raises(Invalid) as refusal:
        add_job(session, model=model.id, recipe=Recipe(activations=None, exclude=("heed",)))
    assert refusal.value.faults[0].pointer == "/recipe/exclude/0"
    assert refusal.value.faults[0].detail == "'heed' matches no layer (near: head)."


def test_the_name_of_a_parameter_is_taken_for_its_layer(session: Session, storage: Storage, archive: Path) -> None:
    model = add_model(session, storage, archive)
    recipe = Recipe(activations=None, include=("features.*.weight", "head.weight"), exclude=("features.0.bias",))
    assert add_job(session, model=model.id, recipe=recipe).recipe["include"] == ["features.*.weight", "head.weight"]


@pytest.mark.parametrize("field", ["model", "dataset", "evaluation_dataset"])
def test_an_upload_that_is_not_there_is_refused(session: Session, field: str) -> None:
    with pytest.raises(NotFound):
        add_job(session, **{field: new_id("dts", clock(session))})


@pytest.mark.parametrize(("wish", "got"), [(None, 100), (7, 7), (1000, 100)])
def test_a_wish_for_time_is_cut_to_the_services_own_limits(session: Session, wish: int | None, got: int) -> None:
    model = add_job(session).model_id
    submission = Submission(model=model, work=QuantizeWork(WEIGHT_ONLY), pending_seconds=wish, running_seconds=wish)
    job = service.submit(session, submission, MostSeconds(pending=100, running=100))
    assert job.limits == {"pending_seconds": got, "running_seconds": got}
    assert (job.pending_until - job.created_at).total_seconds() == got
