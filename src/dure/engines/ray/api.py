"""Ray's dashboard over HTTP: its Jobs API, and its State API's nodes. No user text goes through it.

Source: Ray's REST API of jobs (`/api/jobs/`), and `/api/version` and `/api/v0/nodes` of 2.60. Every
failure is an EngineError, and so unknown; only what Ray itself refuses is a refusal.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import httpx

from dure.engines import EngineError, LaunchRefusedError
from dure.engines.ray.answers import (
    ATTEMPT_KEY,
    MARK,
    VERSION_FLOOR,
    Job,
    Node,
    read_jobs,
    read_nodes,
    read_version,
)
from dure.engines.ray.site import RaySite

_NODES_MAX: Final = 10_000
"""The most that the State API lists at once (RAY_MAX_LIMIT_FROM_API_SERVER)."""
_WORDS_MAX: Final = 300


class Api:
    """One cluster's dashboard. `token` is None where the site accepts a cluster without one."""

    def __init__(self, site: RaySite, cluster_id: str, token: str | None) -> None:
        self._site = site
        self._cluster_id = cluster_id
        self._token = token
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # trust_env off: no proxy and no netrc of the agent's environment sees the token.
        self._http = httpx.Client(
            base_url=site.dashboard, headers=headers, timeout=site.timeout_s, trust_env=False
        )

    def close(self) -> None:
        """Lets go of the connections."""
        self._http.close()

    def check(self) -> None:
        """Raises EngineError where there is no Ray, one too old, or one that anybody may use."""
        version, _ = self._version()
        if version < VERSION_FLOOR:
            raise EngineError(
                f"this Ray is {_said(version)}; Dure needs {_said(VERSION_FLOOR)} or newer"
            )
        if self._token is None:
            return
        del self._http.headers["Authorization"]
        try:
            bare = self._ask("GET", "/api/jobs/")
        finally:
            self._http.headers["Authorization"] = f"Bearer {self._token}"
        if bare.status_code not in {401, 403}:
            raise EngineError(
                "this Ray answers without a token: whoever reaches its dashboard runs anything; "
                "start it with RAY_AUTH_MODE=token, or write without_token = true"
            )

    def session(self) -> str:
        """The session's name."""
        return self._version()[1]

    def _version(self) -> tuple[tuple[int, int], str]:
        return read_version(self._json("GET", "/api/version"))

    def jobs(self) -> dict[str, Job]:
        """Our jobs by attempt, those that have ended among them: one query."""
        return read_jobs(self._json("GET", "/api/jobs/"), self._cluster_id)

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, the dead ones too: one query."""
        where = f"/api/v0/nodes?limit={_NODES_MAX}&detail=true"
        return read_nodes(self._json("GET", where))

    def submit(self, attempt_id: str, driver: Path, place: Path, program: Path) -> None:
        """Asks Ray once to run our driver on an attempt's folder. Ray takes an id but once.

        Raises:
            LaunchRefusedError: Ray said no, and will again.
            EngineError: the outcome is unknown.
        """
        # A shell of Ray's reads the entry point: our own paths are all that is in it.
        words = [self._site.python, "-I", str(driver), str(place), str(program)]
        content = {
            "entrypoint": shlex.join(words),
            "submission_id": self.job_id(attempt_id),
            "metadata": {MARK: self._cluster_id, ATTEMPT_KEY: attempt_id},
        }
        answer = self._ask("POST", "/api/jobs/", content)
        if answer.is_success or attempt_id in self.jobs():
            return
        said = f"{answer.status_code} {_words(answer)}"
        if answer.status_code in {400, 422}:
            raise LaunchRefusedError(f"Ray refused it: {said}")
        raise EngineError(f"whether Ray has the job is not known: {said}")

    def stop(self, attempt_id: str) -> None:
        """Ends a job. One that has ended, or that Ray no longer has, is no error."""
        self._done("POST", f"/api/jobs/{self.job_id(attempt_id)}/stop")

    def delete(self, attempt_id: str) -> None:
        """Removes an ended job from Ray's list. One that it no longer has is no error."""
        self._done("DELETE", f"/api/jobs/{self.job_id(attempt_id)}")

    def job_id(self, attempt_id: str) -> str:
        """The submission id, by which Ray knows an attempt."""
        return f"dure-{self._cluster_id}-{attempt_id}"

    def _done(self, method: str, where: str) -> None:
        answer = self._ask(method, where)
        if not answer.is_success and answer.status_code != 404:
            raise EngineError(f"Ray did not do it: {answer.status_code} {_words(answer)}")

    def _json(self, method: str, where: str) -> Any:
        answer = self._ask(method, where)
        if not answer.is_success:
            hint = "; is token_file the cluster's?" if answer.status_code in {401, 403} else ""
            raise EngineError(f"Ray answered {answer.status_code} {_words(answer)}{hint}")
        try:
            return answer.json()
        except ValueError as error:
            raise EngineError(f"Ray's answer is not JSON: {_words(answer)}") from error

    def _ask(self, method: str, where: str, content: Any = None) -> httpx.Response:
        try:
            return self._http.request(method, where, json=content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineError(
                f"Ray at {self._site.dashboard} did not answer: {error or type(error).__name__}"
            ) from error


def _words(answer: httpx.Response) -> str:
    lines = answer.text.strip().splitlines()
    return lines[-1][:_WORDS_MAX] if lines else ""


def _said(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
