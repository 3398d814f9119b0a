"""Calls to real servers on loopback: checked addresses alone, verified names, ends in time and bytes, no redirects."""

import socket
import threading
import time
from typing import Any

import pytest

from app.outbound import AddressRefused, AnswerTooLong, Rules, TargetAway, called, check_url, networks_of
from tests.app.outbound.receivers import OK, Authority, answering, authority, server
from tests.servers import free_port

LOOPBACK = networks_of(["127.0.0.0/30", "::1"])
RULES = Rules(seconds=10, idle_seconds=5, most_bytes=1000, plain=True, private=LOOPBACK)
NAME = "hooks.example"


class Resolver:
    """What names resolve to, and how often that was asked. The system's own resolves what is an address already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host: str, port: int, *more: Any, **named: Any) -> Any:
        if host not in self.answers:
            return self._system(host, port, *more, **named)
        self.asked.append(host)
        first, *rest = self.answers[host]
        self.answers[host] = rest or [first]
        return [found for address in first for found in self._system(address, port, *more, **named)]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


def get(url: str, rules: Rules = RULES) -> tuple[int, bytes]:
    with called("GET", url, rules) as answer:
        return answer.status, b"".join(answer.chunks())


def test_a_call_has_the_answer() -> None:
    with server(answering(OK)) as target:
        with called("POST", target.url(path="/a?b=c"), RULES, {"X-Own": "yes"}, b"body") as answer:
            assert (answer.status, answer.headers["content-length"], b"".join(answer.chunks())) == (200, "2", b"ok")
        head = target.asked[0].decode()
    assert head.startswith("POST /a?b=c HTTP/1.1\r\n")
    for line in (f"Host: 127.0.0.1:{target.port}", "X-Own: yes", "Accept-Encoding: identity", "Content-Length: 4"):
        assert f"\r\n{line}\r\n" in head


def test_an_ipv6_address_is_called_by_its_brackets() -> None:
    with server(answering(OK), host="::1") as target:
        assert get(target.url("[::1]")) == (200, b"ok")
        assert f"Host: [::1]:{target.port}".encode() in target.asked[0]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0"),
        *("[::]", "169.254.169.254", "10.0.0.1", "[fd00::1]", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
    ],
)
def test_no_spelling_of_a_private_address_is_called(host: str) -> None:
    """Servers listen there, in vain."""
    with server(answering(OK)) as target, server(answering(OK), host="::1", port=target.port) as other:
        with pytest.raises(AddressRefused, match=r"no public address|not a URL"):
            get(target.url(host), Rules(seconds=10, idle_seconds=5, most_bytes=1000, plain=True))
        assert target.asked == other.asked == []


def test_a_name_is_resolved_once_and_connected_to_what_was_checked(resolver: Resolver) -> None:
    """The name answers the second question, if anybody asks it, with what the check would have refused."""
    resolver.answers[NAME] = [["127.0.0.1"], ["127.0.0.9"]]
    with server(answering(OK)) as target, server(answering(OK), host="127.0.0.9", port=target.port) as secret:
        assert get(target.url(NAME)) == (200, b"ok")
        assert resolver.asked == [NAME]
        assert (len(target.asked), secret.asked) == (1, [])
        with pytest.raises(AddressRefused):
            get(target.url(NAME))
        assert (len(target.asked), secret.asked) == (1, [])


def test_a_name_that_has_a_private_address_among_others_is_refused(resolver: Resolver) -> None:
    resolver.answers[NAME] = [["127.0.0.1", "127.0.0.9"]]
    with server(answering(OK)) as target, pytest.raises(AddressRefused):
        get(target.url(NAME))
    assert target.asked == []


def test_an_address_that_does_not_answer_is_followed_by_the_next(resolver: Resolver) -> None:
    resolver.answers[NAME] = [["127.0.0.2", "127.0.0.1"]]
    with server(answering(OK)) as target:
        assert get(target.url(NAME)) == (200, b"ok")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(status: int) -> None:
    with server(answering(OK)) as secret:
        redirect = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {secret.url()}\r\nContent-Length: 0\r\n\r\n"
        with server(answering(redirect.encode())) as target:
            assert get(target.url()) == (status, b"")
        assert secret.asked == []


def test_tls_verifies_the_name_that_was_called(resolver: Resolver, signer: Authority) -> None:
    resolver.answers |= {name: [["127.0.0.1"]] for name in (NAME, "other.example")}
    rules = Rules(seconds=10, idle_seconds=5, most_bytes=1000, private=LOOPBACK, tls=signer.trusted)
    with server(answering(OK), signer.server(NAME, "127.0.0.1")) as target:
        assert get(target.url(NAME, "https"), rules) == (200, b"ok")
        assert get(target.url(scheme="https"), rules) == (200, b"ok")
        with pytest.raises(TargetAway, match=r"certificate of other\.example does not hold"):
            get(target.url("other.example", "https"), rules)
        with pytest.raises(TargetAway, match="certificate"):  # an authority that the web does not know
            get(target.url(NAME, "https"), Rules(seconds=10, idle_seconds=5, most_bytes=1000, private=LOOPBACK))
        assert len(target.asked) == 2


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(answering(OK)) as target, server(answering(OK)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        assert get(target.url()) == (200, b"ok")
        assert (len(target.asked), proxy.asked) == (1, [])


def endless_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(bytes(100))


def test_a_body_ends_at_its_bound() -> None:
    with server(endless_body) as target, pytest.raises(AnswerTooLong, match="1000 bytes"):
        get(target.url())


def test_a_packed_body_is_not_unpacked() -> None:
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    with server(answering(packed)) as target:
        assert get(target.url()) == (200, b"\x1f\x8b\x08\x00")


def dripping_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X: y\r\n")
        time.sleep(0.05)


def dripping_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b".")
        time.sleep(0.05)


def silent(connection: socket.socket) -> None:
    connection.recv(1)
    time.sleep(60)


@pytest.mark.parametrize("serve", [dripping_head, dripping_body, silent])
def test_a_call_ends_in_time_whatever_comes(serve: Any) -> None:
    rules = Rules(seconds=0.5, idle_seconds=5, most_bytes=1000, plain=True, private=LOOPBACK)
    began = time.monotonic()
    with server(serve) as target, pytest.raises(TargetAway, match=r"in time|longer than it may"):
        get(target.url(), rules)
    assert time.monotonic() - began < 4


def test_a_body_that_nobody_reads_ends_in_time() -> None:
    rules = Rules(seconds=0.5, idle_seconds=5, most_bytes=1000, plain=True, private=LOOPBACK)
    with server(silent) as target, pytest.raises(TargetAway):  # noqa: SIM117
        with called("POST", target.url(), rules, content=bytes(2**26)):
            pass


def test_a_silent_step_ends_before_the_call(signer: Authority) -> None:
    rules = Rules(seconds=60, idle_seconds=0.3, most_bytes=1000, plain=True, private=LOOPBACK)
    with server(silent) as target:
        for scheme in ("http", "https"):
            with pytest.raises(TargetAway, match="in time"):
                get(target.url(scheme=scheme), rules)


def test_a_name_that_takes_long_to_resolve_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(60))
    with pytest.raises(TargetAway, match="not resolved in time"):
        get(f"http://{NAME}/", Rules(seconds=0.2, idle_seconds=5, most_bytes=1, plain=True))
    release.set()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "stopped in the middle"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + bytes([65]) * 2**18 + b"\r\n\r\n", "does not speak HTTP"),
    ],
)
def test_what_is_no_answer_is_said_without_words_of_libraries(answer: bytes, words: str) -> None:
    with server(answering(answer)) as target, pytest.raises(TargetAway, match=words):
        get(target.url())


def test_nothing_there_is_said() -> None:
    with pytest.raises(TargetAway, match="Nothing accepts connections"):
        get(f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(TargetAway, match="has no address"):
        get("http://nobody.invalid/")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "hooks.example",
            "//hooks.example/",
            "http:///",
            "https://",
            "file:///etc/passwd",
            "gopher://a/",
            "ftp://a/",
        ),
        *("https://user:word@hooks.example/", "https://user@hooks.example/", "https://a:0/", "https://a:99999/"),
        *(
            "https://[::1",
            "https://a b/",
            "https://\x00/",
            "https://a/\r\nX: y",
            "https://" + "a" * 2100,
            "jar:https://a/",
        ),
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(url, RULES)


def test_plain_http_needs_a_rule() -> None:
    strict = Rules(seconds=1, idle_seconds=1, most_bytes=1)
    with pytest.raises(AddressRefused, match="https"):
        check_url("http://hooks.example/", strict)
    assert check_url("https://hooks.example/", strict).host == NAME
    assert check_url("https://HOOKS.example/ä", strict).raw_path == b"/%C3%A4"
