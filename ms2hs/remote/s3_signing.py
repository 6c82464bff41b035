"""Web addresses of objects in S3 stores, signed with the keys in the environment (AWS Signature Version 4)."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

VALID_S = 3600


@dataclass(frozen=True)
class Store:
    """An S3 store with addresses like `https://endpoint/bucket/key`."""

    endpoint: str
    region: str = "default"
    scheme: str = "https"

    @classmethod
    def from_environment(cls, default: "Store | None") -> "Store | None":
        """The store of GDAL's variable AWS_S3_ENDPOINT, which machines inside an archive set; else the default."""
        scheme, _, endpoint = os.environ.get("AWS_S3_ENDPOINT", "").rpartition("://")
        if not endpoint:
            return default
        uses_http = os.environ.get("AWS_HTTPS", "YES").upper() in {"NO", "FALSE", "OFF", "0"}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "default"
        return cls(endpoint.rstrip("/"), region, scheme or ("http" if uses_http else "https"))


@dataclass(frozen=True)
class Keys:
    """Access key and secret key; neither is printed."""

    access: str
    secret: str

    @classmethod
    def from_environment(cls) -> "Keys":
        """The keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; empty if not set."""
        return cls(os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", ""))

    def __repr__(self) -> str:
        return "Keys()"


def presigned(address: str, store: Store, keys: Keys, at: datetime | None = None, valid_s: int = VALID_S) -> str:
    """The web address of an object, with a signature in its query that is valid for `valid_s` seconds.

    Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters".

    Parameters
    ----------
    address : `s3://bucket/key`.
    at : start of validity; None is now.
    """
    parts = urlsplit(address)
    path = quote(f"/{parts.netloc}{parts.path}", safe="/-_.~")
    query = signed_query(store.endpoint, path, store.region, keys, at, valid_s)
    return f"{store.scheme}://{store.endpoint}{path}?{query}"


def public(address: str) -> str:
    """The https address of a public object (`s3://bucket/key`) at Amazon."""
    parts = urlsplit(address)
    return f"https://{parts.netloc}.s3.amazonaws.com{quote(parts.path, safe='/-_.~')}"


def signed_query(host: str, path: str, region: str, keys: Keys, at: datetime | None, valid_s: int) -> str:  # noqa: PLR0917
    """The query that signs a GET request for a quoted path of a host."""
    time = (at or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    fields = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys.access}/{scope}",
        "X-Amz-Date": time,
        "X-Amz-Expires": str(valid_s),
        "X-Amz-SignedHeaders": "host",
    }
    unsigned = "&".join(f"{name}={quote(text, safe='-_.~')}" for name, text in sorted(fields.items()))
    request = "\n".join(["GET", path, unsigned, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for text in (time[:8], region, "s3", "aws4_request", to_sign):
        key = hmac.digest(key, text.encode(), "sha256")
    return f"{unsigned}&X-Amz-Signature={key.hex()}"
