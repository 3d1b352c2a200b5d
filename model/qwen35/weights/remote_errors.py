"""What a hub, a storage, a proxy or the way to them answers, as one line that says what to do."""

from typing import TYPE_CHECKING
from urllib.request import getproxies

from qwen35.errors import NetworkError

if TYPE_CHECKING:
    import httpx

KEPT = " What has come so far is kept."  # of a pull
_MAY_GET_BETTER = (408, 425, 429, 500, 502, 503, 504)
_LOG_IN = "create a token in your account's settings, then run `hf auth login` or set HF_TOKEN"


class Retry(Exception):
    """Something that another try may not meet. `after_s`: when, as the server asks for it."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Stopped(NetworkError):
    """Nobody wants these bytes any more: raised in the threads that fetch ahead, heard by nobody."""


def refused(response: "httpx.Response", repo: str, revision: str, *, has_token: bool) -> Exception:
    """For a status that is no success: Retry, or a NetworkError."""
    status, code = response.status_code, response.headers.get("x-error-code")
    host = response.request.url.host
    if status in _MAY_GET_BETTER:
        return Retry(f"{host} answered {status} {response.reason_phrase}", _retry_after(response))
    if code == "GatedRepo":
        what = f"{repo}: is gated. Accept its terms on https://{host}/{repo}"
        return NetworkError(
            f"{what}{'.' if has_token else f'; then {_LOG_IN}.'}"
            + (" The token that was sent has no access yet." if has_token else ""),
            path=repo,
        )
    if code == "RevisionNotFound":
        return NetworkError(f"{repo}: has no revision '{revision}'.", path=repo)
    if code == "EntryNotFound":
        return NetworkError(f"{response.request.url.path}: {host} has no such file.", path=repo)
    if status == 401 and has_token and code != "RepoNotFound":
        return NetworkError(f"{repo}: {host} does not accept the token (401). Check HF_TOKEN.", path=repo)
    if code == "RepoNotFound" or status in (401, 404):
        return NetworkError(
            f"{repo}: no such repository on {host}, or a private one. Check its name"
            f"{'' if has_token else f'; if it is private, {_LOG_IN}'}. "
            "Known models: qwen models ls --known",
            path=repo,
        )
    if status == 407:
        return NetworkError(f"{host}: the proxy asks for a password (407). Put it into HTTPS_PROXY.")
    return NetworkError(f"{repo}: {host} answered {status} {response.reason_phrase}.", path=repo)


def refused_by_storage(response: "httpx.Response", where: str) -> Exception:
    """Likewise, of the place that the hub sent on to: an address that is too old is refused with 403."""
    what = f"{response.request.url.host} answered {response.status_code} {response.reason_phrase}"
    if response.status_code in (*_MAY_GET_BETTER, 400, 401, 403, 410):
        return Retry(what, _retry_after(response))
    return NetworkError(f"{where}: {what}.{KEPT}", path=where)


def no_json(repo: str, response: "httpx.Response") -> NetworkError:
    kind = response.headers.get("content-type", "something else").partition(";")[0]
    return NetworkError(
        f"{response.request.url.host}: {kind} came where the hub's JSON was expected. Does a proxy or a "
        "login page stand between?",
        path=repo,
    )


def no_ranges(where: str, response: "httpx.Response") -> NetworkError:
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/html"):
        what = "an HTML page came instead of the file. Does a proxy or a login page stand between?"
    else:
        what = f"{response.request.url.host} sends whole files where byte ranges are asked for."
    return NetworkError(f"{where}: {what}", path=where)


def changed(where: str, what: str) -> NetworkError:
    return NetworkError(
        f"{where}: changed while it was fetched ({what}). Run the same command again; if that does not help, "
        "begin anew with --restart.",
        path=where,
    )


def unreachable(where: str, error: Exception) -> NetworkError:
    """When patience has ended."""
    import httpx

    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ProxyError) or not isinstance(error, httpx.HTTPError | Retry):
        advice = "Check HTTPS_PROXY and NO_PROXY."
    elif isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        proxies = sorted(set(getproxies().values()))
        advice = f"Is the proxy right ({proxies[0]})?" if proxies else "Is there a network?"
        advice += KEPT
    else:
        advice = "What has come so far is kept: run the same command again later."
    return NetworkError(f"{where}: cannot be fetched ({reason}). {advice}", path=where)


def _retry_after(response: "httpx.Response") -> float | None:
    """In seconds; a date is not worth reading."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None
