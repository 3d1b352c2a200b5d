"""A URL as bytes, by httpx."""

from collections.abc import Callable, Iterator

from qwen35.errors import InputError
from qwencli.errors import NetworkError
from qwencli.media.source import AnySource, collect

MAX_DOWNLOAD_BYTES = 64 * 2**20
TIMEOUT_S = 30.0  # of silence, not of the whole download
MAX_REDIRECTS = 5
_OF_VIDEOS = ("video/", "application/octet-stream", "binary/octet-stream")


def fetch(
    url: str,
    on_progress: Callable[[int, int], None],
    *,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
) -> AnySource:
    """Download `url`; `on_progress` gets bytes done and in total (0: not told).

    Raises NetworkError where nothing came, InputError where it cannot be used.
    """
    import httpx

    def body(response: httpx.Response) -> Iterator[bytes]:
        total = int(response.headers.get("content-length", "0"))
        # What it is, its first bytes tell; the limit of videos, which stay on the disk, is `collect`'s own.
        may_be_video = response.headers.get("content-type", "").startswith(_OF_VIDEOS)
        if total > max_bytes and not may_be_video:
            raise InputError(
                f"{url}: {total / 2**20:.0f} MiB; the limit for downloads is {max_bytes / 2**20:g} MiB.",
                path=url,
            )
        for chunk in response.iter_bytes():
            yield chunk
            on_progress(response.num_bytes_downloaded, total)

    try:
        with (
            httpx.Client(
                timeout=timeout_s,
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                headers={
                    "user-agent": "qwen (command line)",
                    "accept": "image/*, video/*, application/pdf, text/*, */*;q=0.1",
                },
            ) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise NetworkError(
                    f"{url}: the server answered {response.status_code} {response.reason_phrase}.", path=url
                )
            return collect(url, body(response), max_bytes)
    except httpx.TimeoutException:
        raise NetworkError(f"{url}: no answer within {timeout_s:g} s.", path=url) from None
    except httpx.TooManyRedirects:
        raise NetworkError(f"{url}: more than {MAX_REDIRECTS} redirects.", path=url) from None
    # ValueError and ImportError: a proxy of the environment that httpx cannot use.
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:
        reason = str(error) or type(error).__name__
        raise NetworkError(f"{url}: cannot be fetched ({reason}).", path=url) from None
