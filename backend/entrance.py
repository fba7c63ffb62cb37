"""Who may come in: everybody, or who knows a password, or whom a trusted proxy names. For both doors, websockets too.

`PRISM_PASSWORD`: browsers get a page that asks for it and then carry a signed cookie; programs send it as
`Authorization: Bearer PASSWORD`, or as the password of HTTP Basic with any name. `PRISM_AUTH_HEADER`: a header such as
`X-Forwarded-User`, believed from the addresses in `PRISM_TRUSTED_PROXIES` only (by default this machine's own).
"""

import base64
import binascii
import hashlib
import hmac
import html
import ipaddress
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote

from backend.errors import BadInput

COOKIE = "prism_session"
COOKIE_S = 12 * 3600  # how long a browser stays in
LOGIN = "/login"
CALLER = "prism.caller"  # in an admitted request's scope: who asks, see `Entrance.name_of`
_OWN_MACHINE = "127.0.0.1,::1"
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}

Scope = Mapping[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def header(scope: Scope, name: str) -> str:
    """The value of a request's header; "" if it has none."""
    wanted = name.lower().encode("latin-1")
    value = next((value for key, value in scope["headers"] if key.lower() == wanted), b"")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:  # what the standard says, but few send
        return value.decode("latin-1")


class Tries:
    """Failed tries by address: each makes the next wait twice as long. Bounded, and forgotten in time."""

    FIRST_S, LONGEST_S, FORGOTTEN_S, AT_MOST = 0.5, 60.0, 900.0, 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> how often, when last

    def wait_s(self, address: str) -> float:
        """Seconds until the next try is looked at; 0: now."""
        count, last = self._failed.get(_neighbourhood(address), (0, 0.0))
        passed = self._clock() - last
        if count == 0 or passed > self.FORGOTTEN_S:
            return 0.0
        return max(0.0, min(self.LONGEST_S, self.FIRST_S * 2 ** min(count - 1, 30)) - passed)

    def fail(self, address: str) -> None:
        place = _neighbourhood(address)
        count, _ = self._failed.pop(place, (0, 0.0))
        self._failed[place] = (count + 1, self._clock())
        while len(self._failed) > self.AT_MOST:
            self._failed.popitem(last=False)

    def succeed(self, address: str) -> None:
        self._failed.pop(_neighbourhood(address), None)


def _neighbourhood(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: a single household has all addresses in it.

    >>> _neighbourhood("10.0.0.1"), _neighbourhood("2001:db8::1"), _neighbourhood("?")
    ('10.0.0.1', '2001:db8::/64', '?')
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


@dataclass(frozen=True)
class Verdict:
    """Whether a request may come in. If not: may it try again after so many seconds, or has it to name itself?"""

    is_admitted: bool
    wait_s: float = 0.0
    sentence: str = ""


ADMITTED = Verdict(True)


@dataclass
class Entrance:
    """How this process lets people in."""

    password: str = ""
    header: str = ""
    proxies: tuple[Network, ...] = ()
    tries: Tries = field(default_factory=Tries)

    def __post_init__(self) -> None:
        salt = b"prism.cookie"  # the key must outlive the process, and a stolen cookie must be slow to guess from
        self._key = hashlib.scrypt(self.password.encode(), salt=salt, **_SCRYPT) if self.password else b""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Entrance":
        """Raises: BadInput: a variable that cannot be meant; `field` names it."""
        name = environment.get("PRISM_AUTH_HEADER", "")
        if name and not re.fullmatch(r"[A-Za-z0-9-]+", name):
            raise BadInput(f"PRISM_AUTH_HEADER is {name!r}; expected the name of a header", "PRISM_AUTH_HEADER")
        text = environment.get("PRISM_TRUSTED_PROXIES", _OWN_MACHINE)
        try:
            proxies = tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            raise BadInput(
                f"PRISM_TRUSTED_PROXIES is {text!r}; expected addresses or networks, as 10.0.0.0/8",
                "PRISM_TRUSTED_PROXIES",
            ) from None
        return cls(environment.get("PRISM_PASSWORD", ""), name, proxies)

    @property
    def is_open(self) -> bool:
        """Is nothing asked of anybody?"""
        return not (self.password or self.header)

    def judge(self, scope: Scope) -> Verdict:
        """May this request (HTTP or websocket) come in?"""
        if self.is_open or self._is_named_by_proxy(scope) or self._has_cookie(scope):
            return ADMITTED
        given = _credentials(header(scope, "authorization"))
        if given is not None and self.password:
            return self.try_password(given, client(scope))
        return Verdict(False, sentence=self._what_is_needed())

    def name_of(self, scope: Scope) -> str:
        """Who asks, as far as can be told: whom a trusted proxy names, else the address that the request comes from."""
        return header(scope, self.header).strip() if self._is_named_by_proxy(scope) else client(scope)

    def try_password(self, given: str, address: str) -> Verdict:
        """Compare in constant time; after a failed try from an address, the next ones have to wait."""
        wait_s = self.tries.wait_s(address)
        if wait_s > 0:
            return Verdict(False, wait_s, f"too many failed tries; wait {wait_s:.0f} s")
        if self.password and hmac.compare_digest(_digest(given), _digest(self.password)):
            self.tries.succeed(address)
            return ADMITTED
        self.tries.fail(address)
        return Verdict(False, sentence="this is not the password")

    def cookie(self, is_https: bool) -> str:
        """What a browser carries from now on: until when it may come in, signed."""
        until = str(int(time.time()) + COOKIE_S)
        secure = "; Secure" if is_https else ""
        return f"{COOKIE}={until}.{self._sign(until)}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Lax{secure}"

    def _sign(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()

    def _has_cookie(self, scope: Scope) -> bool:
        if not self.password:
            return False
        for part in header(scope, "cookie").split(";"):
            name, _, value = part.strip().partition("=")
            until, _, signature = value.partition(".")
            if name == COOKIE and until.isascii() and until.isdigit() and len(until) < 16:
                is_ours = hmac.compare_digest(signature.encode(), self._sign(until).encode())
                return is_ours and int(until) > time.time()
        return False

    def _is_named_by_proxy(self, scope: Scope) -> bool:
        return bool(self.header) and bool(header(scope, self.header).strip()) and self._is_from_proxy(scope)

    def _is_from_proxy(self, scope: Scope) -> bool:
        """Did a trusted proxy hand this request on?

        The server puts the address from `X-Forwarded-For` in the place of the proxy's, with port 0, if the proxy is
        one that it trusts itself (`FORWARDED_ALLOW_IPS`); then those must all be trusted here too.
        """
        address, port = scope.get("client") or ("", 1)
        if port == 0:
            believed = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1").split(",")
            return all(self._trusts(other.strip()) for other in believed)
        return self._trusts(address)

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_network(address)
        except ValueError:
            return False
        return any(parsed.version == net.version and parsed.subnet_of(net) for net in self.proxies)

    def _what_is_needed(self) -> str:
        if self.password:
            return "a password is needed: send it as a Bearer token, or as the password of HTTP Basic"
        return f"come by way of the proxy that sets {self.header}"


def client(scope: Scope) -> str:
    """The address that a request comes from."""
    return (scope.get("client") or ("",))[0]


def _digest(text: str) -> bytes:
    """Equal lengths, so that a comparison tells nothing of the password's."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _credentials(authorization: str) -> str | None:
    """The password in an Authorization header; None: there is none of a kind that is read.

    >>> _credentials("Bearer open sesame"), _credentials("Basic bWU6c2VzYW1l"), _credentials("Digest x")
    ('open sesame', 'sesame', None)
    """
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return None


# ----------------------------------------------------------------- the page that asks for the password
def read_form(body: bytes) -> tuple[str, str]:
    """The password of a posted login form and where to go then: an address of this server, whatever the form says.

    >>> read_form(b"password=a+b&next=%2Fmodels"), read_form(b"next=%2F%2Fevil.example")
    (('a b', '/models'), ('', '/'))
    """
    try:
        fields = parse_qs(body.decode("utf-8"), max_num_fields=8)
    except ValueError:
        return "", "/"
    return fields.get("password", [""])[0], own_address(fields.get("next", ["/"])[0])


def own_address(address: str) -> str:
    """The address if it is one of this server, else the first page; safe to stand in a header."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\"))
    return quote(address, safe="/?&=%:+,.~-_@!$'()*;") if is_own and address.isprintable() else "/"


def login_page(next_address: str, sentence: str = "") -> str:
    """A page without script: a field for the password, and what was wrong with the last one."""
    said = f'<p role="alert">{html.escape(sentence)}</p>' if sentence else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Prism</title><style>{_LOGIN_STYLE}</style></head>
<body><main><h1>Prism</h1><form method="post" action="{LOGIN}">
<input type="hidden" name="next" value="{html.escape(own_address(next_address), quote=True)}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
{said}<button>Open</button></form></main></body></html>
"""


_LOGIN_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; }
main { width: min(20rem, 100vw - 3rem); }
form, label { display: grid; gap: .5rem; }
input, button { font: inherit; padding: .5rem .75rem; border: 1px solid #868e96; border-radius: .5rem; }
button { margin-top: .5rem; border: 0; color: #fff; background: #3b5bdb; cursor: pointer; }
p { margin: 0; color: light-dark(#c92a2a, #ffa8a8); }
"""
