"""MLflow: an experiment a data set, a run a seed. Where it goes is MLflow's to say (``MLFLOW_TRACKING_URI``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engram.studies.jobs import Job


class Tracker:
    """Losses and accuracies as metrics, options as parameters; see :class:`engram.studies.trackers.Tracker`."""

    def __init__(self) -> None:
        import mlflow  # an extra

        self.client = mlflow.MlflowClient()
        self.runs: dict[str, str] = {}

    def begin(self, job: Job, epochs_done: int) -> None:
        experiment = f"engram {job.data.data}"
        found = self.client.get_experiment_by_name(experiment)
        owner = self.client.create_experiment(experiment) if found is None else found.experiment_id
        tags = {"engram.folder": str(Path(job.folder).absolute())}
        run = self.client.create_run(owner, run_name=f"{job.label} seed {job.seed}", tags=tags)
        self.runs[job.folder] = run.info.run_id
        for name, value in {"method": job.method, "seed": job.seed, **job.options}.items():
            self.client.log_param(run.info.run_id, name, value)

    def log(self, job: Job, counted: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.runs[job.folder], name, value, step=step)

    def end(self, job: Job, done: bool) -> None:
        self.client.set_terminated(self.runs.pop(job.folder), "FINISHED" if done else "FAILED")

    def close(self) -> None:
        for run in self.runs.values():
            self.client.set_terminated(run, "KILLED")
