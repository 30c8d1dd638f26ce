"""What the Python programs of the client matrix share: how to dial, fresh tokens, and verdicts.

A program prints one line for each thing it tried: `version`, `ok` or `no`, then its name, then why
not; fields are split by tabs. The test reads them.
"""

import contextlib
import json
import os
import ssl
import threading
import time
import traceback
import urllib.parse
import urllib.request

HOST = os.environ["PGHOST"]
PORT = int(os.environ["PGPORT"])
USER = os.environ["PGUSER"]
DATABASE = os.environ["PGDATABASE"]
ROOT = os.environ["PGSSLROOTCERT"]

# Things that are not tried, split by commas.
SKIP = os.environ.get("BULLA_SKIP", "").split(",")

# Seconds that a short token lives, and until its session is surely gone.
SHORT = 3
GONE = 6

INSERT = "INSERT INTO customers (id, name, email, ssn, region) VALUES"
REFUSED = "SELECT employee FROM salaries"
MISSPELT = "SELECT nothing FROM customers"


def token(seconds=600):
    """A token for this program, as a service fetches it."""
    form = {
        "grant_type": "client_credentials",
        "client_id": os.environ["BULLA_CLIENT"],
        "client_secret": "secret",
        "expires_in": seconds,
    }
    form = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(os.environ["BULLA_TOKENS"], form, timeout=10) as answer:
        return json.load(answer)["access_token"]


class Tokens:
    """Hands out a short token first and long ones afterwards, and counts them."""

    def __init__(self, *first):
        self.lives = list(first)
        self.count = 0

    def __call__(self):
        self.count += 1
        return token(self.lives.pop(0) if self.lives else 600)


def passfile(word):
    """Writes the file in which libpq looks for passwords, and returns its path."""
    path = os.path.join(os.environ["BULLA_SCRATCH"], "pgpass")
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"*:*:*:*:{word}\n")
    return path


def context(alpn=None):
    context = ssl.create_default_context(cafile=ROOT)
    if alpn:
        context.set_alpn_protocols([alpn])
    return context


def version(text):
    print("version", text, sep="\t", flush=True)


def _no(name, error):
    traceback.print_exception(error)
    words = f"{type(error).__name__}: {error}".split("\n")[0]
    print("no", name, words, sep="\t", flush=True)


def feature(name):
    """Tries a thing at once."""

    def decide(function):
        if name in SKIP:
            return
        try:
            function()
            print("ok", name, sep="\t", flush=True)
        except Exception as error:
            _no(name, error)

    return decide


async def attempt(name, coroutine):
    """As `feature`, for a coroutine."""
    if name in SKIP:
        return coroutine.close()
    try:
        await coroutine
        print("ok", name, sep="\t", flush=True)
    except Exception as error:
        _no(name, error)


def same(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def fails(kind, function):
    """Runs what must fail with an exception of this kind, and returns it."""
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


@contextlib.contextmanager
def later(function):
    """Calls a function in half a second; what goes wrong there goes wrong here."""
    wrong = []

    def call():
        try:
            function()
        except Exception as error:
            wrong.append(error)

    timer = threading.Timer(0.5, call)
    timer.start()
    yield
    timer.join()
    if wrong:
        raise wrong[0]


def until_gone():
    """Waits until a session that a short token opened is surely gone."""
    time.sleep(GONE)
