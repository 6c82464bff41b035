"""Addresses of objects in S3 stores, signed with the keys of the environment."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

LIFE_S = 3600


@dataclass(frozen=True)
class Store:
    """An S3 store that is asked as `https://endpoint/bucket/key`."""

    endpoint: str
    region: str = "default"
    scheme: str = "https"

    @classmethod
    def of_environment(cls, usual: "Store | None") -> "Store | None":
        """The one that is named as GDAL takes it, such as where the archive's own machines have another; else usual."""
        scheme, _, endpoint = os.environ.get("AWS_S3_ENDPOINT", "").rpartition("://")
        if not endpoint:
            return usual
        is_plain = os.environ.get("AWS_HTTPS", "YES").upper() in {"NO", "FALSE", "OFF", "0"}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "default"
        return cls(endpoint.rstrip("/"), region, scheme or ("http" if is_plain else "https"))


@dataclass(frozen=True)
class Keys:
    """What one gets in with; neither is ever shown."""

    access: str
    secret: str

    @classmethod
    def of_environment(cls) -> "Keys":
        """As every tool of S3 takes them; empty where they are not set."""
        return cls(os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", ""))

    def __repr__(self) -> str:
        return "Keys()"


def presigned(address: str, store: Store, keys: Keys, at: datetime | None = None, life_s: int = LIFE_S) -> str:
    """The https address from which anyone may get an object for a while (AWS Signature Version 4, in the query).

    Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters".

    Parameters
    ----------
    address : `s3://bucket/key`.
    at : when it begins to hold; None is now.
    """
    parts = urlsplit(address)
    path = quote(f"/{parts.netloc}{parts.path}", safe="/-_.~")
    return (
        f"{store.scheme}://{store.endpoint}{path}?{signed_query(store.endpoint, path, store.region, keys, at, life_s)}"
    )


def public(address: str) -> str:
    """The https address of an object (`s3://bucket/key`) of Amazon that anyone may read."""
    parts = urlsplit(address)
    return f"https://{parts.netloc}.s3.amazonaws.com{quote(parts.path, safe='/-_.~')}"


def signed_query(host: str, path: str, region: str, keys: Keys, at: datetime | None, life_s: int) -> str:  # noqa: PLR0917
    """The query that signs a GET of a quoted path of a host."""
    time = (at or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    fields = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys.access}/{scope}",
        "X-Amz-Date": time,
        "X-Amz-Expires": str(life_s),
        "X-Amz-SignedHeaders": "host",
    }
    unsigned = "&".join(f"{name}={quote(text, safe='-_.~')}" for name, text in sorted(fields.items()))
    request = "\n".join(["GET", path, unsigned, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for text in (time[:8], region, "s3", "aws4_request", to_sign):
        key = hmac.digest(key, text.encode(), "sha256")
    return f"{unsigned}&X-Amz-Signature={key.hex()}"
