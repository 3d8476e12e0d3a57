"""Sending runs to a cluster, and finding them again by name.

cluster = Submissions(Dashboard("http://head:8265"), runs="/shared/runs")
run = cluster.submit(load_job("scan-transformer", ["seed=2"]), "second")
run.follow()
cluster.find("second").stop()
cluster.resume("second")
"""

import json
import secrets
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

from footplate.commands import DEFAULT_RUNS
from footplate.errors import FootplateError
from footplate.folder import RunFolder, find_run, is_url, open_run, refuse_password
from footplate.job import Job, read_job
from footplate_cluster.dashboard import Dashboard, RayJob
from footplate_cluster.parcel import JOB_FILE, Parcel, make_parcel, size
from footplate_cluster.resources import require_resources
from footplate_cluster.submission import Submission
from footplate_cluster.submitted import ENVIRONMENT, FILE, Submitted, read_submitted
from footplate_cluster.wheel import footplate_wheel

NO_ADDRESS = "--address: which cluster? give the address of its dashboard, such as http://head:8265, or set RAY_ADDRESS"
SECONDS_TO_STOP = 3600
"""How long a driver may take to end after `stop`: an update or a whole evaluation, and a checkpoint; Ray gives it 3."""
_RUN, _RUNS, _SEND = "footplate_run", "footplate_runs", "footplate_send"


class Submissions:
    """The runs of one cluster, in one folder of runs that every node sees, or at one URL."""

    def __init__(self, dashboard: Dashboard | None, runs: str = DEFAULT_RUNS) -> None:
        """Without a dashboard, what the run folders tell. Raises FootplateError for a URL that holds a password."""
        refuse_password(runs)
        self.dashboard = dashboard
        self.runs = runs.rstrip("/") if is_url(runs) else str(Path(runs).absolute())
        self._runs_are_default = runs == DEFAULT_RUNS

    def all(self) -> list[Submission]:
        """Every run that the cluster or the folder of runs knows as submitted, the oldest first.

        Raises StorageError where the runs are at a URL that does not answer.
        """
        found = {(s.run, s.path): s for s in map(self._known, self._jobs())}  # the last submission of a run counts
        for name in self._recorded():
            path = f"{self.runs}/{name}"
            found.setdefault((name, path), Submission(name, path, self.dashboard, None))
        return list(found.values())

    def _recorded(self) -> list[str]:
        """The names of the submitted runs in the folder of runs."""
        if not is_url(self.runs):
            records = sorted(Path(self.runs).glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime)
            return [record.parent.name for record in records]
        from footplate.remote import list_copies
        from footplate.storage import Storage

        names = [folder.name for folder in list_copies(self.runs)]
        records_there = Storage(self.runs).read_all([f"{name}/{FILE}" for name in names])
        return [name for name in names if f"{name}/{FILE}" in records_there]

    def find(self, run: str) -> Submission:
        """A run by its name, or by the path or URL of its folder.

        A name is that of a run in the folder of runs, else of one in the working directory, else, where the folder of
        runs is not named, of the one elsewhere that the cluster knows: also where a run that was only trained here has
        that name. Raises FootplateError where nobody knows it as submitted, and for the name of several elsewhere.
        """
        found = self._meant(run)
        if found is not None and found.job is None and found.folder is None:
            found = self._elsewhere(run) or found
        if found is None or (found.job is None and found.folder is None):
            _, around = _looked_for(run, self.runs)
            where = around if self.dashboard is None else f"{self.dashboard.address} or {around}"
            raise FootplateError(
                f"{run if found is None else found.path}: no such run was submitted, says {where}; "
                "`footplate jobs` lists those that were"
            )
        return found

    def submit(
        self,
        job: Job,
        name: str,
        *,
        send: Sequence[Path] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> Submission:
        """Check the job, its resources and its files, then send it; `say` is told what is sent.

        Raises FootplateError, before anything is sent, where the cluster cannot run it or the name is taken.
        """
        job = job.model_copy(update={"on": "ray", "address": "auto"}).settled()
        dashboard = self._reached()
        require_resources(job, dashboard.nodes())
        self._refuse_taken(name)
        parcel = make_parcel(job, send)
        say(f"sending to {dashboard.address}:")
        arguments = ["train", JOB_FILE, "--name", name, "--runs", self.runs]
        return self._send(name, arguments, self._working_dir(parcel, say), [str(path) for path in send], say)

    def resume(
        self,
        run: str,
        *,
        send: Sequence[Path] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> Submission:
        """Send the resumption of a run from its newest checkpoint, with the user's files as they are here now.

        They are the modules that it needs and what `send` names, or else what was named when it was submitted. Where
        its folder is not seen from here, with the files that were sent before.
        """
        dashboard = self._reached()
        before = self._meant(run) or self._of(open_run(*_looked_for(run, self.runs)))
        if before.is_active:
            raise FootplateError(
                f"{run}: is {before.state()} already; `footplate logs {before.argument}{before.flags} -f` follows it"
            )
        if before.state() == "finished":
            say(f"{before.run}: finished already, nothing to do")
            return before
        if before.never_began and not self._began_before(before):
            raise FootplateError(
                f"{run}: {before.state()} before it began, so that there is nothing to go on from; "
                f"start it anew with `{before.anew}`"
            )
        folder = find_run(before.path, "")
        paths = [str(path) for path in send] or self._send_paths(before, folder)
        parcel = None if folder is None else self._parcel_again(before, folder, paths)
        sent_before = self._sent_before(before) if parcel is None else None
        say(f"sending to {dashboard.address}:")
        working_dir = sent_before if parcel is None else self._working_dir(parcel, say)
        return self._send(before.run, ["resume", before.path, "--address", "auto"], working_dir, paths, say)

    def free_name(self, recipe: str) -> str:
        """The recipe's name, with the first number that is free."""
        for number in range(1, 10_000):
            name = recipe if number == 1 else f"{recipe}-{number}"
            if not self._is_taken(name):
                return name
        raise FootplateError(f"--name: {recipe} is taken ten thousand times; choose a name")

    def _meant(self, run: str) -> Submission | None:
        """The run that is meant, whether it was submitted or its folder is only seen from here."""
        refuse_password(run)
        known = [self._known(job) for job in self._jobs()]
        # Stopping a run at a URL needs no credentials for its storage.
        run, runs = _looked_for(run, self.runs)
        found = _last_at(run if "/" in run else f"{runs}/{run}", known)
        if found is None and (folder := find_run(run, runs)) is not None:
            found = _last_at(folder.url or str(folder.path), known) or self._of(folder)
        return found or self._elsewhere(run)

    def _elsewhere(self, name: str) -> Submission | None:
        """The run of this name in whatever folder, where the folder of runs is not named."""
        if not self._runs_are_default:
            return None
        return _only_one_called(name, [self._known(job) for job in self._jobs()])

    def _began_before(self, run: Submission) -> bool:
        """Whether an earlier submission of it had a driver, which may have trained."""
        known = [self._known(job) for job in self._jobs() if job.has_begun and job != run.job]
        return _last_at(run.path, known) is not None

    def _of(self, folder: RunFolder) -> Submission:
        """A run of which the cluster knows nothing."""
        return Submission(folder.name, folder.url or str(folder.path), self.dashboard, None)

    def _send_paths(self, before: Submission, folder: RunFolder | None) -> list[str]:
        """What `--send` named when the run was submitted."""
        if folder is not None and (record := read_submitted(folder)) is not None:
            return list(record.send)
        return [] if before.job is None else [str(path) for path in json.loads(before.job.metadata.get(_SEND, "[]"))]

    def _parcel_again(self, before: Submission, folder: RunFolder, paths: Sequence[str]) -> Parcel:
        """What a run needs from here to go on. Raises FootplateError where that, or its resources, are not there."""
        job = read_job(folder.job).model_copy(update={"on": "ray", "address": "auto"})
        require_resources(job, self._reached().nodes())
        for path in paths:
            if not Path(path).exists():
                raise FootplateError(
                    f"{before.run}: was submitted with --send {path}, and there is no such file or folder here; "
                    "resume it from the directory where it was submitted"
                )
        return make_parcel(job, [Path(path) for path in paths])

    def _sent_before(self, before: Submission) -> str | None:
        """What an earlier submission of this run uploaded, if it is still there."""
        uri = before.job.working_dir if before.job is not None else None
        if uri is not None and not self._reached().has_package(uri.removeprefix("gcs://")):
            raise FootplateError(
                f"{before.run}: the cluster has lost its modules, and {before.path} is not seen from here; "
                "resume it from a machine that sees the run folder"
            )
        return uri

    def _send(
        self,
        name: str,
        arguments: list[str],
        working_dir: str | None,
        paths: list[str],
        say: Callable[[str], None],
    ) -> Submission:
        dashboard = self._reached()
        wheel = footplate_wheel()
        say(
            f"  footplate ({wheel.files} files, {size(len(wheel.content))}{self._upload(wheel.package, wheel.content)})"
        )
        is_first = arguments[0] == "train" and all(job.metadata.get(_RUN) != name for job in self._jobs())
        # A head that starts anew has forgotten the ids that run folders remember.
        submission_id = name if is_first else f"{name}.{secrets.token_hex(4)}"
        variables = {
            "RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_TO_STOP),
            ENVIRONMENT: Submitted(dashboard.address, submission_id, tuple(paths)).to_json(),
        }
        runtime_env: dict[str, Any] = {"py_modules": [f"gcs://{wheel.package}"], "env_vars": variables}
        if working_dir is not None:
            runtime_env["working_dir"] = working_dir
        entrypoint = shlex.join(["python", "-m", "footplate", *arguments])
        path = arguments[1] if arguments[0] == "resume" else f"{self.runs}/{name}"
        metadata = {_RUN: name, _RUNS: path.rpartition("/")[0], _SEND: json.dumps(paths)}
        dashboard.submit(submission_id, entrypoint, runtime_env, metadata)
        return Submission(name, path, dashboard, dashboard.job(submission_id))

    def _working_dir(self, parcel: Parcel, say: Callable[[str], None]) -> str:
        for line in parcel.lines():
            say(f"  {line}")
        self._upload(parcel.archive.package, parcel.archive.content)
        return f"gcs://{parcel.archive.package}"

    def _upload(self, package: str, content: bytes) -> str:
        """Send what the cluster does not have; returns what there is to say about it."""
        dashboard = self._reached()
        if dashboard.has_package(package):
            return ", there already"
        dashboard.upload(package, content)
        return ""

    def _refuse_taken(self, name: str) -> None:
        if PurePath(name).name != name or name in {"", ".."} or not name.isprintable():
            raise FootplateError(
                f"--name: {name!r} is not a plain folder name; choose one without slashes or control characters"
            )
        if self._is_taken(name):
            there = Submission(name, f"{self.runs}/{name}", self._reached(), None)
            raise FootplateError(
                f"{there.path}: a run of this name exists; choose another --name, or "
                f"`footplate resume {there.argument}{there.flags}`"
            )

    def _is_taken(self, name: str) -> bool:
        """Whether the folder is seen from here, or the cluster knows of a run there that may have begun.

        One that failed or was stopped without a folder has freed its name again; where the folder is not seen from
        here, the driver finds out. Raises StorageError where it is at a URL that does not answer.
        """
        if is_url(self.runs):
            from footplate.storage import Storage

            Storage(self.runs).check()
            if Storage(f"{self.runs}/{name}").sizes():
                return True
        elif (Path(self.runs) / name).exists():
            return True
        known = [job for job in self._jobs() if job.metadata[_RUN] == name and job.metadata.get(_RUNS) == self.runs]
        return any(not job.has_ended or job.status == "SUCCEEDED" for job in known)

    def _jobs(self) -> list[RayJob]:
        jobs = [] if self.dashboard is None else self.dashboard.jobs()
        return [job for job in jobs if _RUN in job.metadata]

    def _known(self, job: RayJob) -> Submission:
        run = job.metadata[_RUN]
        return Submission(run, f"{job.metadata.get(_RUNS, self.runs)}/{run}", self.dashboard, job)

    def _reached(self) -> Dashboard:
        if self.dashboard is None:
            raise FootplateError(NO_ADDRESS)
        return self.dashboard


def recorded_address(run: str, runs: str) -> str | None:
    """The cluster that a run was submitted to, as far as a run folder seen from here tells."""
    folder = find_run(*_looked_for(run, runs))
    submitted = None if folder is None else read_submitted(folder)
    return None if submitted is None else submitted.address


def _looked_for(run: str, runs: str) -> tuple[str, str]:
    """What to look for and the folder of runs to look in: for what is given with its folder, that one alone."""
    if "/" not in run:
        return run, runs
    path = run.rstrip("/") if is_url(run) else str(Path(run).absolute())
    return path, path.rpartition("/")[0]


def _last_at(path: str, known: Sequence[Submission]) -> Submission | None:
    """The last submission of the run at a path or URL."""
    place = _place(path)
    return next((each for each in reversed(known) if _place(each.path) == place), None)


def _place(path: str) -> str:
    """The same for every way in which a path can be written."""
    return path if is_url(path) else str(Path(path).resolve())


def _only_one_called(name: str, known: Sequence[Submission]) -> Submission | None:
    """The last submission of the one run of this name. Raises FootplateError where several runs have it."""
    called = {_place(each.path): each for each in known if each.run == name}
    if len(called) > 1:
        raise FootplateError(f"{name}: is the name of several runs; give the path of one: {', '.join(called)}")
    return next(iter(called.values()), None)
