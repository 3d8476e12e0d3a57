"""A Ray cluster's dashboard over HTTP: jobs, uploads, and what the nodes have.

Ray's own client waits without limit for an address that swallows packets, answers a refusal with its server's
traceback and follows redirects with the token in hand; and it needs Ray, which a laptop that only submits does not.
"""

import http.client
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from footplate.errors import FootplateError
from footplate_cluster.authentication import Token, find_token

SECONDS_TO_ANSWER = 10.0
SECONDS_TO_UPLOAD = 300.0
Result = TypeVar("Result")
ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class RayJob:
    """One line of the cluster's table of jobs; times are seconds since 1970."""

    id: str
    status: str
    message: str
    metadata: Mapping[str, str]
    working_dir: str | None
    started: float
    entrypoint: str
    has_begun: bool
    """Whether its driver was ever started."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in ENDED


class Dashboard:
    """What a cluster's dashboard answers. Every method raises FootplateError, in one line, where it does not answer."""

    def __init__(self, address: str, *, allow_open: bool = False) -> None:
        """Ask whether the cluster wants a token, and find it: nothing else is sent before that.

        A cluster on another machine that wants none is refused unless `allow_open`: whoever reaches it runs code there.
        """
        self.address = checked_address(address)
        host = urlsplit(self.address).hostname or ""
        self._host = host
        # A proxy would be shown what is meant for this machine.
        proxies = [ProxyHandler({})] if _is_loopback(host) else []
        self._opener = build_opener(_NoRedirects, *proxies)
        self._token: Token | None = None
        if self._asks_for_a_token():
            self._token = find_token()
            if self._token is None:
                raise FootplateError(
                    f"--address {self.address}: the cluster asks for a token, and there is none here; "
                    "put it into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
                )
        elif not allow_open and not _is_loopback(host):
            raise FootplateError(
                f"--address {self.address}: whoever reaches this cluster can run code on it, for it asks for no token; "
                "start it with RAY_AUTH_MODE=token, or give --allow-open where its network is closed"
            )
        self._json("/api/version", lambda answer: answer["ray_version"])

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each living node, such as `{"CPU": 8.0, "GPU": 1.0}`."""

        def living(answer: Any) -> list[dict[str, float]]:
            rows = answer["data"]["result"]["result"]
            return [row["resources_total"] for row in rows if row["state"] == "ALIVE"]

        return self._json("/api/v0/nodes?limit=10000&timeout=10", living)

    def jobs(self) -> list[RayJob]:
        """Everything that was submitted since the head started, the oldest first."""
        found = self._json("/api/jobs/", lambda rows: [_job(row) for row in rows if row.get("submission_id")])
        return sorted(found, key=lambda job: job.started)

    def job(self, submission_id: str) -> RayJob | None:
        """One job; None where the cluster knows no such."""
        try:
            return self._json(f"/api/jobs/{quote(submission_id, safe='')}", _job)
        except _NotFoundError:
            return None

    def logs(self, submission_id: str) -> str:
        """All that the job's driver has printed; empty where the cluster knows no such job."""
        try:
            path = f"/api/jobs/{quote(submission_id, safe='')}/logs"
            return self._json(path, lambda answer: str(answer["logs"] or ""))
        except _NotFoundError:
            return ""

    def has_package(self, name: str) -> bool:
        """Whether a package of this name was uploaded, and pins it for the ten minutes that a submission may take."""
        try:
            self._request("GET", f"/api/packages/gcs/{name}")
        except _NotFoundError:
            return False
        return True

    def upload(self, name: str, content: bytes) -> None:
        """Store a package; its URI is `gcs://NAME`."""
        self._request("PUT", f"/api/packages/gcs/{name}", content, seconds=SECONDS_TO_UPLOAD)

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Start a job. Raises FootplateError where the id is taken."""
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "runtime_env": runtime_env,
            "metadata": metadata,
        }
        try:
            self._request("POST", "/api/jobs/", json.dumps(body).encode(), seconds=SECONDS_TO_UPLOAD)
        except _RefusedError as refused:
            if "already exists" in str(refused):
                raise FootplateError(
                    f"--name: {submission_id} is taken by another submission to {self.address}; choose another name"
                ) from refused
            raise

    def stop(self, submission_id: str) -> None:
        """Ask the job to end: SIGTERM for its driver."""
        self._request("POST", f"/api/jobs/{quote(submission_id, safe='')}/stop")

    def _asks_for_a_token(self) -> bool:
        try:
            return self._json("/api/authentication_mode", lambda answer: bool(answer["authentication_mode"] == "token"))
        except _NotFoundError:  # Ray before 2.52 knows no token
            return False

    def _json(self, path: str, read: Callable[[Any], Result]) -> Result:
        """What `read` makes of an answer. Raises FootplateError where it is not one of Ray's."""
        answer = self._request("GET", path)
        try:
            return read(json.loads(answer))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._no_dashboard() from error

    def _request(
        self, method: str, path: str, body: bytes | None = None, *, seconds: float = SECONDS_TO_ANSWER
    ) -> bytes:
        headers = {"Content-Type": "application/json" if path == "/api/jobs/" else "application/octet-stream"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.secret}"
        request = Request(self.address + path, data=body, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=seconds) as response:
                return bytes(response.read())
        except HTTPError as error:
            with error:
                raise self._refused(error.code, error.read().decode(errors="replace")) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise SilentError(
                f"--address {self.address}: nobody answers there ({text}); start a cluster with `ray start --head`, "
                "or give the address of its dashboard"
            ) from None

    def _refused(self, code: int, text: str) -> FootplateError:
        if code in (401, 403) and self._token is not None:
            return FootplateError(
                f"--address {self.address}: the cluster refuses the token in {self._token.source}; "
                "get the one that it was started with"
            )
        if code == 404:
            return _NotFoundError(str(self._no_dashboard()))
        if code < 500:
            return self._no_dashboard()
        lines = text.strip().splitlines() or [f"HTTP status {code}"]  # the last of a traceback says what it was
        return _RefusedError(f"--address {self.address}: the cluster failed ({lines[-1][:300]}); see its dashboard.log")

    def _no_dashboard(self) -> FootplateError:
        return FootplateError(
            f"--address {self.address}: what answers there is no dashboard of Ray; "
            "give the address that `ray start --head` printed, such as http://head:8265"
        )


class SilentError(FootplateError):
    """Nobody answers at the address, or the dashboard fails: it may be another moment only."""


class _NotFoundError(FootplateError):
    """The dashboard knows no such thing, or it is no dashboard."""


class _RefusedError(SilentError):
    """The dashboard failed, in its own words."""


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would take the token along to wherever it points."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def checked_address(address: str) -> str:
    """A dashboard's address, without a slash at its end. Raises FootplateError for any other."""
    wrong = FootplateError(
        f"--address {address}: is not a dashboard's; give http://head:8265, "
        "or train from a node of the cluster with --on ray"
    )
    try:
        parts = urlsplit(address)
        _ = parts.port  # which urlsplit checks only now
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise FootplateError(
            f"--address {parts.scheme}://...@{parts.hostname}: holds a password, which others see; "
            "the cluster's token belongs into ~/.ray/auth_token"
        )
    return address.rstrip("/")


def chosen_address(address: str | None) -> str | None:
    """What was given, or what RAY_ADDRESS says where that is a dashboard's."""
    if address is not None:
        return address
    environment = os.environ.get("RAY_ADDRESS", "")
    return environment if environment.startswith(("http://", "https://")) else None


def is_on_this_machine(address: str) -> bool:
    """Whether a dashboard's address is a loopback one."""
    return _is_loopback(urlsplit(checked_address(address)).hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _job(row: Mapping[str, Any]) -> RayJob:
    return RayJob(
        id=str(row["submission_id"]),
        status=str(row["status"]),
        message=str(row.get("message") or ""),
        metadata=row.get("metadata") or {},
        working_dir=(row.get("runtime_env") or {}).get("working_dir"),
        started=(row.get("start_time") or 0) / 1000,
        entrypoint=str(row.get("entrypoint") or ""),
        has_begun=row.get("driver_node_id", "") is not None,
    )
