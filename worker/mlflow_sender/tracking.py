"""Runs in MLflow, by its own client. A run is found by its tag, so telling twice makes no second one."""

import json
from contextlib import ExitStack
from datetime import datetime
from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunTag, ViewType
from mlflow.exceptions import RestException
from requests import RequestException

from app.jobs.mlflow_runs import Due, Facts
from worker.mlflow_sender import figures
from worker.mlflow_sender.figures import JOB_TAG

RECIPE_FILE = "recipe.json"
MOST_RUNS = 100
"""Of one job, looked at at once; more than one is rare."""


class ExperimentDeleted(Exception):
    """A project's experiment was deleted: to make another of its name is refused until somebody restores it."""


def is_away(error: BaseException | None) -> bool:
    """Return whether an error means that no answer came, or one that says to ask again: not a word about what was told.

    MLflow's client has one class for that and for what it finds wrong itself, but keeps the cause.
    """
    return error is not None and (isinstance(error, RequestException) or is_away(error.__cause__ or error.__context__))


class Tracking:
    """The runs of an MLflow server. Methods raise what its client raises."""

    def __init__(self, uri: str) -> None:
        self._client = MlflowClient(uri)
        self._experiments: dict[str, str] = {}

    def tell(self, due: Due, result: bytes | None) -> None:
        """Have a run for a job, and once the job has ended, all that is known of it. `result`: its report, if any.

        Whatever the server refuses, or has no room for, an ended job's run is closed.
        """
        run_id = self._run_of(due)
        facts = due.facts
        with ExitStack() as steps:  # in reverse; each is tried, then the first failure is raised
            if due.has_ended:
                ended = _milliseconds(facts.finished_at) if facts else None
                steps.callback(self._client.set_terminated, run_id, figures.status_of(due.state), ended)
            if facts and due.has_ended:
                steps.callback(self._log_files, run_id, facts, result)
                steps.callback(self._log_end, run_id, due, facts, result)
            if facts and not due.opened:
                params = [Param(*one) for one in figures.params(facts).items()]
                steps.callback(partial(self._client.log_batch, run_id, params=params))

    def forget(self) -> None:
        """Ask again for everything: what was known may be gone."""
        self._experiments.clear()

    def _log_end(self, run_id: str, due: Due, facts: Facts, result: bytes | None) -> None:
        at = _milliseconds(facts.finished_at) or 0
        numbers = figures.metrics(facts, json.loads(result) if result else {})
        metrics = [Metric(one.name, one.value, at, one.step) for one in numbers]
        tags = [RunTag(*one) for one in figures.closing_tags(due, facts).items()]
        self._client.log_batch(run_id, metrics, tags=tags)

    def _log_files(self, run_id: str, facts: Facts, result: bytes | None) -> None:
        recipe = json.dumps(figures.recipe_of(facts), indent=2, ensure_ascii=False)
        self._client.log_text(run_id, recipe, RECIPE_FILE)
        if result:
            self._client.log_text(run_id, result.decode(), facts.result_name)

    def _run_of(self, due: Due) -> str:
        """Return the id of a job's first run; others, left by requests whose answer was lost, are deleted."""
        experiment = self._experiment(due.project)
        wanted = f"tags.`{JOB_TAG}` = '{due.job_id}'"
        runs = self._client.search_runs([experiment], wanted, ViewType.ACTIVE_ONLY, MOST_RUNS)
        found = sorted((run.info.start_time, run.info.run_id) for run in runs)
        for _, run_id in found[1:]:
            self._client.delete_run(run_id)
        return str(found[0][1]) if found else self._new_run(experiment, due)

    def _new_run(self, experiment: str, due: Due) -> str:
        facts = due.facts
        tags = figures.opening_tags(due, facts) if facts else {JOB_TAG: due.job_id}
        began = _milliseconds(facts.started_at) if facts else None
        return str(self._client.create_run(experiment, began, tags, figures.run_name(due)).info.run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name) or self._new_experiment(name)
            if found.lifecycle_stage != "active":
                raise ExperimentDeleted(f"The experiment {name} was deleted in MLflow: restore it there.")
            self._experiments[name] = str(found.experiment_id)
        return self._experiments[name]

    def _new_experiment(self, name: str) -> Experiment:
        try:
            return self._client.get_experiment(self._client.create_experiment(name))
        except RestException:
            found: Experiment | None = self._client.get_experiment_by_name(name)
            if found is None:  # else another process was faster
                raise
            return found


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)
