"""Passwords and tokens in addresses and in the environment, which no message shows."""

import logging

import pytest

from config.messages import one_line, with_type
from config.secrets import without_secrets
from data_preprocess import gso_example_download
from data_preprocess.hub.transfers import list_files
from model.weights.hub import download, keep_secrets_out_of_log

SECRET = "SECRETPW"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"GET http://user:{SECRET}@host:1/a failed", "GET http://host:1/a failed"),
        (f"http://user:a@{SECRET}@host/b@c and https://{SECRET}@x", "http://host/b@c and https://x"),
        ("https://huggingface.co/a?mail=b@c", "https://huggingface.co/a?mail=b@c"),
        ("a.json, view 3: is b@c", "a.json, view 3: is b@c"),
    ],
)
def test_addresses_lose_user_and_password(text, expected):
    assert without_secrets(text) == expected
    assert one_line(OSError(text)) == expected
    assert with_type(ValueError(text), 999) == f"ValueError: {expected}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", f"user:{SECRET}@host:1"),
        ("https_proxy", f"http://user:{SECRET}@host:1"),
        ("ALL_PROXY", f"socks5://us%40er:%21{SECRET}@host:1"),
        ("HF_TOKEN", f"hf_{SECRET}"),
    ],
)
def test_secrets_of_the_environment_are_left_out_wherever_they_are(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    for text in (value, f"Invalid port: '{value}'", value.partition("@")[0], f"cannot log in with {value[-20:]}"):
        assert SECRET not in without_secrets(text)


@pytest.mark.parametrize("password", ["%21" + SECRET, SECRET])
def test_decoded_passwords_are_left_out_too(monkeypatch, password):
    monkeypatch.setenv("HTTP_PROXY", f"http://user:{password}@host")
    assert without_secrets(f"refused !{SECRET}") in ("refused ***", "refused !***")


@pytest.mark.parametrize("endpoint", [f"http://user:{SECRET}@127.0.0.1:1", f"user:{SECRET}@127.0.0.1:1"])
def test_downloads_show_no_password(monkeypatch, tmp_path, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("LACT_GITHUB_API", endpoint)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for call in (
        lambda: download("owner/repo", "w.pt", tmp_path / "w.pt"),
        lambda: list_files("owner/repo"),
        gso_example_download.list_example,
    ):
        with pytest.raises(OSError, match=r"127\.0\.0\.1|unreachable") as caught:
            call()
        assert SECRET not in str(caught.value)


def test_warnings_of_the_hub_show_no_password(capfd):
    keep_secrets_out_of_log()
    keep_secrets_out_of_log()
    logger = logging.getLogger("huggingface_hub.utils._http")
    said: list[str] = []
    handler = logging.getLogger("huggingface_hub").handlers[0]
    handler.addFilter(lambda record: said.append(record.getMessage()) or False)
    try:
        logger.warning("%s thrown while requesting GET %s", "error", f"http://user:{SECRET}@host/x")
    finally:
        handler.removeFilter(handler.filters[-1])
    assert said == ["error thrown while requesting GET http://host/x"]
